"""The words that the decoder knows, and the tokenizer of them."""

from __future__ import annotations

from typing import Any

from bench.accuracy.scenes import COLOURS, COLUMNS, ROWS, SHAPES

PAD, BEGIN, END, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
WORDS = (
    *(PAD, BEGIN, END, UNKNOWN, IMAGE, "?"),
    *("read", "the", "digits", "where", "is", "how", "many", "there", "a", "what", "at", "yes", "no", "nothing"),
    *(each for each in COLUMNS if each != "a"),
    *ROWS,
    *COLOURS,
    *SHAPES,
    *"0123456789",
)
NUMBERS = {word: number for number, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """The token ids of words with spaces between them."""
    return [NUMBERS[word] for word in text.split()]


def decode(ids: list[int]) -> str:
    """The words up to the end of the answer."""
    ids = ids[: ids.index(NUMBERS[END])] if NUMBERS[END] in ids else ids
    return " ".join(WORDS[each] for each in ids)


def prompt(question: str, image_tokens: int) -> list[int]:
    """The token ids of a picture and a question about it."""
    return [NUMBERS[BEGIN], *[NUMBERS[IMAGE]] * image_tokens, *encode(f"{question} ?")]


# What `prompt` makes, from the messages of a chat. An image may come before or after the question's text.
CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def tokenizer() -> Any:
    """The same as a tokenizer of transformers, for checkpoints."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = Tokenizer(models.WordLevel(dict(NUMBERS), unk_token=UNKNOWN))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
    )
