"""Hard content for the pages: texts that break a layout which was only ever tried with short ones. Always the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
_SUBJECTS = (
    "The committee", "A careful reader", "The second experiment", "Most of the villages", "The translator",
    "Every river in the valley", "An early draft", "The night train", "Her grandmother", "The new instrument",
)  # fmt: skip
_VERBS = (
    "describes", "measured", "forgot", "depends on", "was surprised by", "carries", "explains", "slowly changed",
    "had to repeat", "disagrees with",
)  # fmt: skip
_OBJECTS = (
    "the shape of the coast", "a rule that nobody had written down", "the price of salt", "three small corrections",
    "what the others had heard", "the long way round", "a list of forty names", "the weather of that spring",
    "an old map of the harbour", "the question itself",
)  # fmt: skip
_ENDS = (
    "", ", as the notes of that year show", ", although the figures were never published",
    ", which is why the answer took so long", " and the argument went on until the morning",
    "; the reasons are given below", ", or so it was said afterwards",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Hard:
    """A comparison with what it is hard for."""

    name: str
    prompt: list[Message]
    answers: list[str]
    language: str = ""


def asked(text: str) -> list[Message]:
    """One question."""
    return [{"role": "user", "content": text}]


def essay(words: int, *, seed: int) -> str:
    """Paragraphs with headings and lists, of about so many words."""
    drawn = random.Random(seed)
    blocks: list[str] = []
    written = 0
    while written < words:
        sentences = [
            f"{drawn.choice(_SUBJECTS)} {drawn.choice(_VERBS)} {drawn.choice(_OBJECTS)}{drawn.choice(_ENDS)}."
            for _ in range(drawn.randint(3, 7))
        ]
        kind = len(blocks) % 6
        if kind == 0:
            block = f"## {drawn.choice(_OBJECTS).capitalize()}\n\n{' '.join(sentences)}"
        elif kind == 4:
            block = "\n".join(f"- {sentence}" for sentence in sentences)
        else:
            block = " ".join(sentences)
        written += len(block.split())
        blocks.append(block)
    return "\n\n".join(blocks)


def _conversation(turns: int) -> list[Message]:
    """A system message, then so many messages that end with the person's."""
    drawn = random.Random(12)
    messages = [{"role": "system", "content": "You help people to plan a garden. Be brief, and ask when unsure."}]
    for i in range(turns):
        text = f"{drawn.choice(_SUBJECTS)} {drawn.choice(_VERBS)} {drawn.choice(_OBJECTS)}."
        messages.append({"role": "assistant" if i % 2 else "user", "content": f"{text} Which is better for turn {i}?"})
    if turns % 2 == 0:
        messages.append({"role": "user", "content": "So what shall I plant first, in one sentence?"})
    return messages


_WIDE_TABLE = "\n".join(
    ["| " + " | ".join(f"Quarter {i} of the plan" for i in range(1, 10)) + " |", "|" + " ---: |" * 9]
    + ["| " + " | ".join(f"{(row * 137 + i * 911) % 9973:,}" for i in range(9)) + " |" for row in range(14)]
)
_LONG_CODE = '''```python
def reconcile(ledger: dict[str, list[tuple[datetime, Decimal]]], statement: Iterable[StatementLine], *, tolerance: Decimal = Decimal("0.005")) -> Iterator[Mismatch]:
    """Yield what the statement has and the ledger lacks, and the other way round; equal amounts within three days are one."""
    open_entries = {account: sorted(entries, key=itemgetter(0)) for account, entries in ledger.items() if any(abs(amount) > tolerance for _, amount in entries)}
    for line in statement:
        match = next((entry for entry in open_entries.get(line.account, ()) if abs(entry[1] - line.amount) <= tolerance and abs((entry[0] - line.booked_at).days) <= 3), None)
        if match is None:
            yield Mismatch(account=line.account, amount=line.amount, booked_at=line.booked_at, reason="the ledger has no such entry")
        else:
            open_entries[line.account].remove(match)
```'''  # noqa: E501 -- its length is what it is for
_ARABIC = (
    "القمر لا يضيء بنفسه، بل يعكس ضوء الشمس. عندما يدور حول الأرض نرى أجزاءً مختلفة من نصفه المضيء، "
    "ولذلك يبدو لنا أن شكله يتغيّر.\n\n1. **الهلال**: نرى جزءًا صغيرًا.\n2. **البدر**: نرى النصف كله.\n"
    "3. **المحاق**: لا نراه تقريبًا.\n\nالدورة كلها تستغرق نحو `29.5` يومًا (synodic month)."
)
_HEBREW = (
    "הירח אינו מאיר בעצמו; הוא מחזיר את אור השמש. בזמן שהוא מקיף את כדור הארץ אנו רואים חלקים שונים מהצד המואר, "
    "ולכן נדמה שצורתו משתנה לאורך החודש."
)
_FORMULAS = r"""The roots of $ax^2 + bx + c = 0$ are

$$x_{1,2} = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a},$$

so for $a = 1$, $b = -3$, $c = 2$ the discriminant is $9 - 8 = 1$ and

$$x_1 = 2, \qquad x_2 = 1.$$

A check that costs $5 less: $x_1 + x_2 = -\frac{b}{a} = 3$ and $x_1 x_2 = \frac{c}{a} = 2$."""

HARD: tuple[Hard, ...] = (
    Hard(
        name="code",
        prompt=asked("Reconcile a ledger with a bank statement. Python, one function, and say what it costs."),
        answers=[
            f"{_LONG_CODE}\n\nIt is *O(n · m)* for each account; sort both sides by amount if that is too slow.",
            "1. Read both.\n   - Skip what is zero.\n     - Also `-0.00`.\n2. Sort.\n3. Walk.\n\n"
            "```bash\npython -m reconcile ledger.csv statement.csv --tolerance 0.005 > mismatches.csv"
            " && wc -l mismatches.csv\n```",
        ],
    ),
    Hard(
        name="tables",
        prompt=asked("Show the plan of the next nine quarters as a table."),
        answers=[
            f"Here it is:\n\n{_WIDE_TABLE}\n\nAll figures are made up.",
            "| Quarter | Sum |\n| --- | ---: |\n| 1 | 911 |",
        ],
    ),
    Hard(
        name="right-to-left",
        prompt=asked("اشرح لطفل في العاشرة لماذا يبدو أن شكل القمر يتغيّر خلال الشهر."),
        answers=[_ARABIC, _HEBREW],
    ),
    Hard(
        name="conversation",
        prompt=_conversation(12),
        answers=["Plant the apple tree first: it takes longest.", "First a hedge; everything else needs its shelter."],
    ),
    Hard(
        name="long-answers",
        prompt=asked("Write an essay of about 3,000 words on a subject of your choice."),
        answers=[essay(3000, seed=1), essay(3000, seed=2)],
    ),
    Hard(name="long-prompt", prompt=asked(essay(1200, seed=3) + "\n\nSum this up in one sentence."),
         answers=["Somebody measured something.", "A committee, a river and a map, without a conclusion."]),
    Hard(
        name="formulas",
        prompt=asked("Solve $x^2 - 3x + 2 = 0$ and show the steps."),
        answers=[_FORMULAS, "x is 1 or 2."],
    ),
    Hard(
        name="similar",
        prompt=asked("How do I keep basil alive on a windowsill?"),
        answers=[
            "Give it at least six hours of sun, water it when the top of the soil is dry, and cut the tips every week."
            " It dies of cold draughts more often than of thirst.\n\n- Pot: with a hole in the bottom.\n- Soil: loose.",
            "Give it at least four hours of sun, water it every day, and cut the tips every week."
            " It dies of thirst more often than of anything else.\n\n- Pot: with a hole in the bottom.\n- Soil: any.",
        ],
    ),
    Hard(
        name="one-word",
        prompt=asked("Say a in one very long word, and link to https://example.org/" + "path/" * 40 + "end"),
        answers=[
            "a" * 1000,
            f"`{'b' * 400}` and _{'c' * 300}_ <b onclick=alert(1)>not bold</b> ![a cat](https://example.org/cat.png)",
        ],
    ),
)  # fmt: skip


def ranked(letter_count: int) -> list[dict[str, Any]]:
    """Three comparisons of so many answers, which differ in length."""
    questions = (
        "Name a good first bird to watch.",
        "How do I keep basil alive?",
        "What is a fair price for a used bike?",
    )
    return [
        {
            "prompt": question,
            "completions": [essay(20 + 45 * k, seed=10 * i + k).split("\n\n", 1)[1] for k in range(letter_count)],
        }
        for i, question in enumerate(questions)
    ]
