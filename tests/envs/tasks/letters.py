"""A tokenizer with one token for each character, and odd texts."""

ODD = ["🦊👩‍👩‍👧", "مرحبا", "a\r\nb\u2028c\u0085d", "nul\0inside", "\u202eabc", "tab\there", "é e\u0301", "<eos> <pad>"]


class Letters:
    """One token for each character; EOS is 1, PAD 0."""

    vocab_size, eos_id, pad_id = 1000, 1, 0

    def encode(self, text):
        return [ord(letter) % 900 + 2 for letter in text]

    def decode(self, tokens):
        raise NotImplementedError
