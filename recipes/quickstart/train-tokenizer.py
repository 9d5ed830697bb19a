"""Trains recipes/quickstart/tokenizer.model on the quickstart's own rows.

    npm run setup
    node -e "const { generateQuickstart } = require('./dist/data/quickstart/generator.js');
             console.log(JSON.stringify(generateQuickstart({ seed: 0, count: 20000 }).train))" > rows.json
    python recipes/quickstart/train-tokenizer.py rows.json recipes/quickstart/tokenizer

Needs sentencepiece 0.2 and protobuf. A prompt is mostly boilerplate, so pieces may be whole phrases of the templates
and of the questions (`split_by_whitespace=False`), which leaves some 16 tokens an instance; words in capitals and
digits, whose letters and figures the skills are about, come apart into single characters.
"""

import collections
import itertools
import json
import re
import sys

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

VOCABULARY = 1280
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
WORD = re.compile(r" ?[A-Za-z]+| ?[^\w\s]|\s|\d")


def words(text):
    """The text in pieces that the trainer may join no further: words, and single letters of words in capitals."""
    for word in WORD.findall(text):
        if re.search(r"[A-Z]{2}", word):
            yield from re.findall(r" ?[A-Z]", word)
        else:
            yield word


def sentences(rows):
    """What the trainer sees: template parts and the fixed phrases of questions whole, everything else word by word."""
    counts = collections.Counter(word.strip() for row in rows for word in set(words(row["instruction"])))
    fixed = {
        word
        for word, count in counts.items()
        if count > 0.008 * len(rows) and not (len(word) == 1 and word.isalnum() and word != "a")
    }
    for row in rows:
        for part in re.split(r"\{\w+\}", WITH_INPUT if row["input"] else WITHOUT_INPUT):
            # A digit keeps the trainer from stripping the line break at the end of a part.
            yield (" " + part if part.startswith("Below") else part) + ("0" if part.endswith("\n") else "")
        for is_fixed, group in itertools.groupby(words(row["instruction"]), lambda word: word.strip() in fixed):
            if is_fixed:
                yield "".join(group)
            else:
                yield from group
        yield from words(row["input"])
        yield from words(" " + row["output"])


def main(rows_path, prefix):
    rows = json.load(open(rows_path, encoding="utf-8"))
    spm.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain(sentences(rows), map(chr, range(33, 127))),
        model_prefix=prefix,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        max_sentencepiece_length=256,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
        allow_whitespace_only_pieces=True,
    )
    # The pieces above were cut with their leading spaces; in use, a text gets one in front, as in every LLaMA.
    model = pb.ModelProto()
    model.ParseFromString(open(f"{prefix}.model", "rb").read())
    model.normalizer_spec.add_dummy_prefix = True
    open(f"{prefix}.model", "wb").write(model.SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
