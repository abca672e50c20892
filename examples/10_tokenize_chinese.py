"""Mixed Chinese and English to BERT ids, and back to the characters of the text, to mark what a model has found.

    python examples/10_tokenize_chinese.py [vocab.txt]

Without the vocabulary of a model it trains one from the sentences below.
"""

import sys

import linkboy as lb

SENTENCES = [
    "酒店离地铁站很近，房间干净，服务员热情。",
    "房间太小，隔音很差，服务员态度冷漠。",
    "The hotel is close to the station, and the staff were friendly.",
    "早餐不错，Wi-Fi 很慢，停车 free。",
]

vocabulary = sys.argv[1] if len(sys.argv) > 1 else lb.train_wordpiece(SENTENCES, vocab_size=180)
tokenizer = lb.BertTokenizer(vocabulary)

batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
print("ids:", tuple(batch.input_ids.shape), "real tokens:", batch.attention_mask.sum(1).tolist())

text = "服务员\u200b很 Friendly，房间😀"  # an invisible character, as found in web pages, and one never seen
encoded = tokenizer(text, return_offsets_mapping=True)
tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
print("tokens:", " ".join(tokens))

# A model marked tokens 1 to 3: the offsets lead back to the original text.
start, end = encoded["offset_mapping"][1][0], encoded["offset_mapping"][3][1]
print(f"tokens 1 to 3 are the characters {start} to {end}: {text[start:end]}")

report = tokenizer.explain(text)
print(report)
print("decoded:", tokenizer.decode(encoded["input_ids"]))
