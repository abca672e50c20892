"""The sentences about data that are printed and shown on the page, in one table, so that another language is another table.

Errors are not here: they stand where they are raised.
"""

SENTENCES = {
    # what was taken
    "took": "text from {text}, label from {label} ({classes}), {rows}; {form}",
    "took several": "text from {text}, labels from {label} ({labels}, {each} a row; {written}), {rows}; {form}",
    "took folders": "a text from each file, its label from the folder that it is in ({classes}), {rows}",
    "took text": "text from {text}; {form}",
    "lines": "each line is read as a text; if the first one names columns, pass separator={separator!r}",
    "first row": "first row as read: {text} is {label}",
    "first row without": "first row as read: {text} has no label",
    "joined": "the columns of the text are joined, with ␁ between them; the n-grams of each are told apart",
    "also text": "{names} hold texts too; to read them as well pass text_column={all!r}",
    "also text (one)": "{names} holds texts too; to read both pass text_column={all!r}",
    "also label": "could be the label as well: {names}; to learn that one pass label_column={one!r}",
    # checks of the labels
    "spelling": "the labels {names} differ only in case, spaces, width, quotes or signs that look alike, and are {count} "
    "classes; join them with label_map if that is not meant",
    "same value": "{names} are the same value and are one class, {one!r}",
    "truth": "the label {names} is a truth value, and is read as {one!r}",
    "missing labels": "labels such as {example!r} may stand for a missing value, and count as a class; leave their rows out "
    "if so",
    "enclosed": "the labels, such as {example!r}, are read with the quotes or brackets that stand around them in the file: check "
    "how it was written",
    "fractions": "labels are numbers with fractions, such as {example!r}: each different number is a class of its own, and "
    "their order is not used",
    "word tags": "the labels, such as {example!r}, are tags of the words of a sentence: each line is learned as a text of "
    "its own",
    "small classes": "{classes} fewer than 5 rows: {names}",
    "mapped": "label_map renamed {labels}",
    "unmapped": "label_map names {names}, which no row has as its label",
    "made of others": "the label {example!r} is made of other labels, with {between!r} between them; if a text may have several "
    "labels, pass label_separator={separator!r}",
    # checks of rows with several labels
    "no label": "{rows} no label, which says that none holds",
    "unused separator": "label_separator {separator!r} stands in no row, so every text has one label at most; leave it out if a "
    "text is to have exactly one",
    "loose separator": "{rows} a label separator with nothing on one side, which is not counted",
    "doubled label": "{rows} a label twice, which counts once",
    "unused columns": "the label columns {names} hold 0 in every row",
    # checks of the texts
    "header again": "{rows} the header, as where files were put together, and {are} left out ({lines})",
    "names its label": "{share} of the texts contain their own label, far more than those of other classes: check that it is not "
    "copied into the text",
    "placeholders": "{texts} no words, only a placeholder such as {example!r}",
    "duplicates": "{rows} the text of another row",
    "two labels": "{texts} with more than one label",
    "replacement": "{texts} U+FFFD, which stands for characters that an earlier conversion lost",
    "mojibake": "{texts} what looks like UTF-8 read as another encoding, such as {example!r}: a part of the file is UTF-8",
    "controls": "{texts} control characters, such as {example!r}, as where quotes and dashes of Windows are read as Latin-1: "
    "read the file with encoding='cp1252' if so",
    "other encoding": "{rows} not {encoding} but probably {likely}: the file may have parts in two encodings",
}


def say(key: str, **values: object) -> str:
    """Return a sentence of the table with its values filled in.

    Examples:
        >>> say("duplicates", rows="3 rows repeat")
        '3 rows repeat the text of another row'
    """
    return SENTENCES[key].format(**values)
