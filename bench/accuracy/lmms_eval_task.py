"""The held-out scenes as a local task of lmms-eval, one for each task of the questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.accuracy import evaluate, lmms_eval_utils, material, scenes
from bench.accuracy.settings import TASKS, Settings
from tokenprune_kernels.analysis.progress import Progress

GROUP = "tokenprune_scenes"
_TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: {tokens}
  temperature: 0
metric_list:
  - metric: {task}
    aggregation: !function utils.all_right
    higher_is_better: true
metadata:
  - version: 1.0
"""


def export(settings: Settings, folder: Path) -> Path:
    """Writes pictures, questions and tasks for ``lmms-eval --include_path FOLDER --tasks tokenprune_scenes``.

    Args:
        settings: how many scenes.
        folder: of the cache; the task is in its folder ``lmms-eval``.

    Returns:
        That folder.
    """
    made = (folder / "lmms-eval").resolve()
    (made / "pictures").mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {task: [] for task in TASKS}
    with Progress(settings.held_out_scenes) as progress:
        for number, asked in enumerate(evaluate.asked(settings)):
            progress.step(f"lmms-eval: scene {number}")
            picture = f"pictures/{number}.png"
            if not (made / picture).exists():
                scenes.render(scenes.scene(material.HELD_OUT, number)).save(made / picture)
            for question in asked:
                entry = {"scene": number, "picture": picture, "task": question.task}
                entry |= {"question": question.text, "answer": question.answer}
                lines[question.task].append(json.dumps(entry))
    for task, entries in lines.items():
        questions = made / f"{task}.jsonl"
        questions.write_text("\n".join(entries) + "\n")
        text = _TASK.format(name=f"{GROUP}_{task}", questions=questions, tokens=evaluate.MOST_NEW_TOKENS, task=task)
        (made / f"{GROUP}_{task}.yaml").write_text(text)
    names = "".join(f"  - {GROUP}_{task}\n" for task in TASKS)
    (made / f"{GROUP}.yaml").write_text(f"group: {GROUP}\ntask:\n{names}")
    shutil.copy(lmms_eval_utils.__file__, made / "utils.py")
    return made
