"""The end of a judge's question: the request and the two answers."""

from __future__ import annotations

PAIR = """

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}"""
