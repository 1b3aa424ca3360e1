"""The prompts of a report, token by token."""

from typing import TYPE_CHECKING, Any

from spex_mech.report.words import value_text
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from spex_mech.engine.task import Task

_MOST_PROMPTS = 20


def prompts_shown(found: Interactions, task: "Task", tokenizer: Any) -> dict[str, Any]:
    from spex_mech.engine.prompts import tokens_sha256

    prompts, intact = task.prompts, found.intact_by_prompt
    known = found.about.get("tokens_sha256")
    if len(prompts) != len(intact) or known not in (None, tokens_sha256(prompts)):
        raise ValueError(
            f"the task {task.name!r} has other prompts than those of the result: give the task "
            "that the game was made with"
        )

    def texts(ids: list[int]) -> list[str]:
        if task.decode is not None:
            return task.decode(ids)
        return [str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids]

    def answers(given: Any, row: int) -> list[str]:
        ids = [] if given is None else [i for i in given[row].tolist() if i >= 0]
        return [_visible(text) for text in texts(ids)]

    decodes = prompts.decoded is not prompts.tokens
    marks = prompts.answers is not None and (prompts.has_tokens or decodes)
    shown = []
    for row in range(min(len(prompts), _MOST_PROMPTS)):
        words = texts(prompts.tokens[row][prompts.real[row]].tolist()) if prompts.has_tokens else []
        others = prompts.read_as[prompts.has_tokens :]
        words += [text for text in others if not text.startswith("decoder")]
        last = int(prompts.last[row])
        if decodes:  # what is decoded follows what is encoded
            last += len(words)
            words += texts(prompts.decoded[row][prompts.decoded_real[row]].tolist())
        shown.append(
            {
                "intact": value_text(float(intact[row])),
                "tokens": [
                    {
                        "text": _visible(text),
                        "read": pos == last and marks,
                    }
                    for pos, text in enumerate(words)
                ],
                "answers": answers(prompts.answers, row),
                "wrong": answers(prompts.wrong_answers, row),
            }
        )
    cut = f"The first {len(shown)} of {len(prompts):,}." if len(shown) < len(prompts) else ""
    ids = "" if task.decode or tokenizer is not None else "No tokenizer was given: ids are shown."
    marked = "The marked token is where the answer is read." if marks else ""
    behind = "The decoder's tokens stand behind what is encoded." if decodes else ""
    return {"shown": shown, "note": " ".join(part for part in (cut, behind, marked, ids) if part)}


def _visible(text: str) -> str:
    """Line ends and tabs as signs; one token stays one box."""
    signs = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\r": "\\r", "\t": "\\t"}
    return "".join(signs.get(c, c) for c in text) or "\N{EMPTY SET}"
