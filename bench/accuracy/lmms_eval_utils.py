"""What the local task of lmms-eval calls. It is copied beside the task, so it imports nothing of this package."""

from collections import defaultdict
from pathlib import Path

from PIL import Image


def doc_to_visual(doc):
    """The picture of a question; the path is relative to this file."""
    return [Image.open(Path(__file__).parent / doc["picture"]).convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question, with a space before its mark, as the small model has learned it."""
    return f"{doc['question']} ?"


def process_results(doc, results):
    """Whether an answer is right, under its task and its scene."""
    right = results[0].strip() == doc["answer"]
    return {doc["task"]: {"scene": doc["scene"], "right": right}}


def all_right(results):
    """The share of scenes on which every answer is right."""
    scenes = defaultdict(list)
    for each in results:
        scenes[each["scene"]].append(each["right"])
    return sum(all(each) for each in scenes.values()) / len(scenes)
