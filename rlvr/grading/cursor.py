"""A place in a list of tokens, from which a parser reads on."""

from __future__ import annotations

from collections.abc import Container

from rlvr.grading.lexer import Token

MAX_DEPTH = 40


class NotInGrammar(Exception):
    """The text is no expression that the parser knows."""


class TokenCursor:
    """Read tokens from left to right, and bound how deep the reader nests."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0

    @property
    def at_end(self) -> bool:
        return self.place == len(self.tokens)

    def peek(self, ahead: int = 0) -> str:
        """Return the text of a token that follows, nothing behind the last."""
        place = self.place + ahead
        if place < len(self.tokens):
            return self.tokens[place].text
        return ""

    def peek_kind(self) -> str:
        """Return the kind of the next token, "end" behind the last."""
        if self.place < len(self.tokens):
            return self.tokens[self.place].kind
        return "end"

    def take(self) -> Token:
        """Return the next token and step over it; raises NotInGrammar behind the last."""
        if self.place >= len(self.tokens):
            raise NotInGrammar
        token = self.tokens[self.place]
        self.place += 1
        return token

    def accept(self, text: str) -> bool:
        """Step over the next token where it has this text, and tell whether it has."""
        if self.peek() != text:
            return False
        self.place += 1
        return True

    def accept_any(self, texts: Container[str]) -> str:
        """Return the text of the next token and step over it where it is one of these, else nothing."""
        text = self.peek()
        if text not in texts:
            return ""
        self.place += 1
        return text

    def expect(self, text: str) -> None:
        """Step over a token that must have this text; raises NotInGrammar."""
        if self.take().text != text:
            raise NotInGrammar

    def enter(self) -> None:
        """Count one level more; raises NotInGrammar where it is one too many."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotInGrammar

    def leave(self) -> None:
        """Count one level less. NotInGrammar ends the whole parse, so no level has to be left on the way out."""
        self.depth -= 1

    def list_texts(self, start: int) -> list[str]:
        """Return the texts of the tokens from a place up to here."""
        return [token.text for token in self.tokens[start : self.place]]
