"use strict";
const place = (name) => document.getElementById(name);
const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)}%`);
const add = (parent, kind, text, name = "") => {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  parent.append(made);
  return made;
};
const show = (answer) => {
  place("classes").replaceChildren();
  for (const { label, probability } of answer.top ?? [answer]) {
    const line = add(place("classes"), "li", "");
    line.style.setProperty("--length", probability ?? 0);
    if ((answer.labels ?? [answer.label]).includes(label)) line.className = "chosen";
    add(line, "bdi", label);
    add(line, "span", percent(probability), "number");
  }
  const why = answer.explanation;
  place("label").textContent = why.label;
  place("against").textContent = why.against;
  place("runs").replaceChildren();
  for (const [shade, run] of why.runs) shade ? add(place("runs"), "mark", run, shade) : place("runs").append(run);
  place("pieces").replaceChildren();
  for (const { piece, log_odds } of why.pieces) {
    const line = add(place("pieces"), "li", "", log_odds > 0 ? "for" : "against");
    add(line, "bdi", piece);
    line.append(` ${log_odds > 0 ? "+" : ""}${(log_odds ?? 0).toFixed(2)}`);
  }
};
place("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = place("form").querySelector("button");
  button.disabled = true;
  let problem = "";
  try {
    const fields = [...document.querySelectorAll("textarea")];
    const text = fields.length > 1 ? Object.fromEntries(fields.map((each) => [each.name, each.value])) : fields[0].value;
    const body = JSON.stringify({ text, top: Number(place("answer").dataset.top), explain: true });
    const response = await fetch("predict", { method: "POST", headers: { "content-type": "application/json" }, body });
    const answer = await response.json();
    response.ok ? show(answer) : (problem = answer.error);
  } catch {
    problem = place("answer").dataset.failed;
  }
  button.disabled = false;
  place("problem").textContent = problem;
  place("problem").hidden = !problem;
  place("answer").hidden = Boolean(problem);
});
