"""Arithmetic turns: sums, differences, products, quotients, comparisons, small word problems."""

from __future__ import annotations

from random import Random

from world.core import ALWAYS, Turn
from world.tables import NUMBERS
from world.words import name

LARGEST = 999  # operands of sums and differences
SMALL_PAIR = 20  # pairs whose operands are both at most this are always trained
TOO_LARGE = "I only do sums with numbers up to 999."
WHOLE_ONLY = "I only do sums with whole numbers."
TOO_LARGE_PRODUCT = "I only multiply small numbers, such as 12 x 12 or 7 x 85."

ASK = (
    "What is {e}?",
    "What is {e}?",
    "What's {e}?",
    "{e}",
    "{e}",
    "{e} =",
    "{e}=",
    "{e} = ?",
    "{e}?",
    "Calculate {e}.",
    "Compute {e}",
    "How much is {e}?",
    "Solve {e}.",
    "Work out {e}.",
    "Tell me {e}.",
    "Please add this up: {e}",
    "Can you calculate {e}?",
    "What does {e} equal?",
    "what is the answer to {e}?",
    "Do you know what {e} is?",
)
WORDED = {
    "+": (
        "What is {a} plus {b}?",
        "{a} plus {b}",
        "Add {a} and {b}.",
        "What is the sum of {a} and {b}?",
        "Add {b} to {a}.",
    ),
    "-": (
        "What is {a} minus {b}?",
        "{a} minus {b}",
        "Subtract {b} from {a}.",
        "Take {b} away from {a}.",
        "What is the difference between {a} and {b}?",
    ),
    "x": (
        "What is {a} times {b}?",
        "{a} times {b}",
        "Multiply {a} by {b}.",
        "What is the product of {a} and {b}?",
        "What is {a} multiplied by {b}?",
    ),
    "/": (
        "What is {a} divided by {b}?",
        "{a} divided by {b}",
        "Divide {a} by {b}.",
        "How many times does {b} go into {a}?",
    ),
}
SIGNS = {"+": "+", "-": "-−", "x": "x*×", "/": "/÷"}


def operand(rng: Random) -> int:
    """A number from 0 to LARGEST with one, two or three digits about equally often."""
    return rng.randint(0, (9, 99, LARGEST, LARGEST)[rng.randrange(4)])


def value(a: int, sign: str, b: int) -> str:
    """The statement that answers a sign b, such as '17 + 25 = 42.'."""
    if sign == "+":
        return f"{a} + {b} = {a + b}."
    if sign == "-":
        return f"{a} - {b} = {a - b}."
    if sign == "x":
        return f"{a} x {b} = {a * b}."
    quotient, rest = divmod(a, b)
    return f"{a} / {b} = {quotient}." if rest == 0 else f"{a} / {b} = {quotient} remainder {rest}."


def phrase(rng: Random, a: int, sign: str, b: int) -> str:
    """A question for a sign b in symbols or in words."""
    if rng.random() < 0.3:
        return rng.choice(WORDED[sign]).format(a=a, b=b)
    if max(a, b) <= 12 and rng.random() < 0.2:
        asks = ("What is {e}?", "{e}", "How much is {e}?", "what's {e}?")
        between = {"+": "plus", "-": "minus", "x": "times", "/": "divided by"}[sign]
        return rng.choice(asks).format(e=f"{NUMBERS[a]} {between} {NUMBERS[b]}")
    written = rng.choice(SIGNS[sign]) if rng.random() < 0.4 else SIGNS[sign][0]
    gap = "" if rng.random() < 0.35 else " "
    text = rng.choice(ASK)
    if sign != "+" and "add this" in text:
        text = "{e}"
    return text.format(e=f"{a}{gap}{written}{gap}{b}")


def pair_key(a: int, sign: str, b: int) -> str:
    """The split's key: a pair is wholly trained or wholly held, but small pairs are always trained."""
    return ALWAYS if max(a, b) <= SMALL_PAIR else f"{a} {sign} {b}"


def result(text: str) -> str:
    """The number after '=' in an answer of value()."""
    return text.split("= ")[1].rstrip(".")


def make(kind: str, rng: Random, a: int, sign: str, b: int) -> Turn:
    """The turn that asks for a sign b."""
    answer = value(a, sign, b)
    user = phrase(rng, a, sign, b)
    key = pair_key(a, sign, b) if sign in "+-" else ""
    return Turn(kind, user, answer, key, result(answer), topic=() if "rem" in answer else ("number", result(answer)))


def addition(rng: Random) -> Turn:
    """a + b, operands up to 999."""
    return make("addition", rng, operand(rng), "+", operand(rng))


def subtraction(rng: Random) -> Turn:
    """a - b, mostly with a result of at least 0."""
    a, b = operand(rng), operand(rng)
    if a < b and rng.random() < 0.75:
        a, b = b, a
    return make("subtraction", rng, a, "-", b)


def multiplication(rng: Random) -> Turn:
    """The table up to 12 x 12, and a number up to 12 times a two-digit one."""
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    if rng.random() < 0.35:
        a, b = rng.randint(0, 12), rng.randint(0, 99)
        if rng.random() < 0.5:
            a, b = b, a
    return make("multiplication", rng, a, "x", b)


def division(rng: Random) -> Turn:
    """Quotients out of the table, some with a remainder, and division by zero."""
    b = rng.randint(1, 12)
    a = b * rng.randint(0, 12) if rng.random() < 0.75 else rng.randint(0, 100)
    if rng.random() < 0.03:
        return Turn("division", phrase(rng, a, "/", 0), "You cannot divide by zero.")
    return make("division", rng, a, "/", b)


def triple(rng: Random) -> Turn:
    """a + b + c with small numbers."""
    a, b, c = (rng.randint(0, 30) for _ in range(3))
    gap = rng.choice(("", " ", " "))
    user = rng.choice(ASK).format(e=f"{a}{gap}+{gap}{b}{gap}+{gap}{c}")
    answer = f"{a} + {b} + {c} = {a + b + c}."
    return Turn("addition", user, answer, f"{a}+{b}+{c}", str(a + b + c), topic=("number", str(a + b + c)))


def beyond(rng: Random) -> Turn:
    """Numbers too large for this model get a plain refusal."""
    if rng.random() < 0.25:
        a, b = operand(rng), operand(rng)
        fraction = rng.choice((f"{a}.{rng.randint(1, 99)}", f"{a}.{rng.randint(1, 9)}"))
        text = rng.choice(
            (
                f"{fraction} + {b}",
                f"{b} - {fraction}",
                f"{fraction} x {b}",
                f"{fraction}+{b}",
                f"{a}% of {b}",
                f"{b} plus {a}%",
            )
        )
        return Turn("sum_limits", rng.choice(ASK[:4]).format(e=text), WHOLE_ONLY)
    big = rng.randint(1000, 10 ** rng.randint(4, 8))
    if rng.random() < 0.6:
        a, b = (big, operand(rng)) if rng.random() < 0.5 else (operand(rng), big)
        return Turn("sum_limits", phrase(rng, a, rng.choice("+-"), b), TOO_LARGE)
    a, b = rng.randint(13, 999), rng.randint(13, 999)
    if rng.random() < 0.3:
        a, b = rng.randint(2, 9), rng.randint(100, 9999)
    return Turn("sum_limits", phrase(rng, a, "x", b), TOO_LARGE_PRODUCT)


def comparison(rng: Random) -> Turn:
    """Which of two numbers is larger or smaller; even or odd."""
    a, b = operand(rng), operand(rng)
    if rng.random() < 0.15:
        a = rng.randint(1, 100)
        prime = a > 1 and all(a % k for k in range(2, a))
        user = rng.choice(("Is {a} a prime number?", "Is {a} prime?", "Is the number {a} prime?")).format(a=a)
        return Turn("comparison", user, f"Yes, {a} is a prime number." if prime else f"No, {a} is not a prime number.")
    if rng.random() < 0.3:
        word = rng.choice(("even", "odd"))
        truth = "even" if a % 2 == 0 else "odd"
        user = rng.choice(("Is {a} {w}?", "Is the number {a} {w}?", "Is {a} an {w} number?")).format(a=a, w=word)
        answer = f"Yes, {a} is {truth}." if truth == word else f"No, {a} is {truth}."
        return Turn("comparison", user, answer)
    if a == b:
        b = a + 1
    larger = rng.random() < 0.5
    ask = (
        "Which is {w}, {a} or {b}?",
        "Which number is {w}: {a} or {b}?",
        "What is {w}, {a} or {b}?",
        "{a} or {b}, which is {w}?",
    )
    word = rng.choice(("larger", "bigger", "greater") if larger else ("smaller", "less"))
    chosen = max(a, b) if larger else min(a, b)
    return Turn("comparison", rng.choice(ask).format(w=word, a=a, b=b), f"{chosen} is {word}.", short=str(chosen))


def word_problem(rng: Random) -> Turn:
    """Apples bought and given away."""
    who, thing = name(rng), rng.choice(("apples", "books", "coins", "stamps", "marbles", "cookies", "pencils", "cards"))
    a, b = rng.randint(1, 60), rng.randint(1, 40)
    if rng.random() < 0.5:
        verb = rng.choice(("buys", "gets", "finds"))
        user = f"{who} has {a} {thing} and {verb} {b} more. How many {thing} does {who} have now?"
        answer = f"{a} + {b} = {a + b}, so {who} has {a + b} {thing}."
    else:
        a = b + rng.randint(2, 40)
        verb = rng.choice(("gives away", "loses", "sells"))
        user = f"{who} has {a} {thing} and {verb} {b}. How many {thing} are left?"
        answer = f"{a} - {b} = {a - b}, so {a - b} {thing} are left."
    return Turn("word_problem", user, answer, exact_case=True, plain=False)
