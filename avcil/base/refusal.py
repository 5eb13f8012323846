"""What is said of input that cannot be used."""


class Refusal(ValueError):
    """One line that names the file or the row, and the way out. Whatever it quotes of a file, nothing in it breaks the
    line or is obeyed by a terminal."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
