"""Makes the logs in `examples/llm_logs/logs/` with inspect_ai and lm_eval themselves.

`python tests/adapters/make_logs.py` makes them again. Nothing is downloaded: the models are stand-ins of these tools,
and the questions are made here. The logs are kept, so that the example and the tests need neither tool.
"""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

LOGS = Path(__file__).parents[2] / "examples" / "llm_logs" / "logs"
ITEMS = 12
MISTAKES = {"small": {2, 3, 5, 8, 9, 11}, "large": {3, 11}}


def question(number: int) -> str:
    return f"What is {number} plus {number}?"


def make_inspect_logs() -> None:
    """Two models answer twelve questions about three passages, each twice; the small one raises once."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.log import write_eval_log
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, accuracy, includes, match, mean, scorer
    from inspect_ai.solver import generate, solver

    @solver
    def breaks():
        async def solve(state, generate):
            if str(state.model).endswith("small") and state.sample_id == "q07" and state.epoch == 2:
                raise RuntimeError("the sandbox is gone")
            return state

        return solve

    @scorer(metrics={"length": [mean()], "right": [accuracy()]})
    def judged():
        async def score(state, target):
            said = state.output.completion
            return Score(value={"length": len(said), "right": "C" if said == target.text else "I"}, answer=said)

        return score

    samples = [
        Sample(id=f"q{n:02}", input=question(n), target=str(2 * n), metadata={"passage": f"p{n % 3}"})
        for n in range(ITEMS)
    ]
    for name in MISTAKES:

        def answer(messages, tools, tool_choice, config, name=name, asked={}):
            number = int(messages[-1].text.split()[2])
            asked[number] = asked.get(number, 0) + 1
            wrong = number in MISTAKES[name] or (number == 6 and asked[number] == 2)
            said = ModelOutput.from_content(name, str(2 * number + wrong))
            # Otherwise tokens are counted with a vocabulary from the network.
            return said.model_copy(update={"usage": ModelUsage(input_tokens=6, output_tokens=1, total_tokens=7)})

        model = get_model(f"mockllm/{name}", custom_outputs=answer)
        for form in ("eval", "json") if name == "small" else ("eval",):
            answer.__defaults__[1].clear()
            with tempfile.TemporaryDirectory() as folder:
                task = Task(
                    name="doubling",
                    dataset=samples,
                    solver=[breaks(), generate()],
                    scorer=[match(location="exact"), includes(), judged()],
                )
                [log] = eval(
                    task,
                    model=model,
                    epochs=2,
                    max_samples=1,
                    log_dir=folder,
                    log_format=form,
                    display="none",
                    fail_on_error=False,
                )
                # Without the events, which are large, and paths of the machine that made the log.
                for sample in log.samples:
                    sample.events = []
                    if sample.error is not None:
                        sample.error.traceback = sample.error.traceback_ansi = ""
                log.eval.revision = None
                write_eval_log(log, str(LOGS / f"{name}.{form}"))


def make_lm_eval_logs() -> None:
    """The model `dummy`, which guesses, with two seeds: multiple choice, and texts with two filters."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "questions.jsonl"
        docs = [
            {"question": question(n), "choices": [str(2 * n), str(2 * n + 1)], "passage": f"p{n % 3}"}
            for n in range(ITEMS)
        ]
        data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        shared = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "metadata": {"version": 1.0},
        }
        choosing = {
            **shared,
            "task": "doubling_choice",
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        writing = {
            **shared,
            "task": "doubling_text",
            "output_type": "generate_until",
            "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["\n"]},
            "metric_list": [{"metric": "exact_match"}],
            "filter_list": [
                {"name": "strict", "filter": [{"function": "take_first"}]},
                {"name": "loose", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
            ],
        }
        for seed in (1, 2):
            random.seed(seed)
            tracker = EvaluationTracker(output_path=str(Path(folder) / f"seed{seed}"))
            results = simple_evaluate(
                model="dummy",
                model_args="pretrained=guesser",
                tasks=[choosing, writing],
                task_manager=TaskManager(include_defaults=False),
                evaluation_tracker=tracker,
                log_samples=True,
                bootstrap_iters=0,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
            )
            samples = results.pop("samples")
            tracker.save_results_aggregated(results=results, samples=samples)
            for task in results["configs"]:
                tracker.save_results_samples(task_name=task, samples=samples[task])
            goal = LOGS / f"lm_eval_{seed}"
            shutil.rmtree(goal, ignore_errors=True)
            goal.mkdir()
            for made in (Path(folder) / f"seed{seed}").rglob("*.json*"):
                # No path of the machine that made them.
                said = made.read_text().replace(folder, "/data")
                (goal / made.name).write_text(said)


if __name__ == "__main__":
    LOGS.mkdir(exist_ok=True)
    make_inspect_logs()
    make_lm_eval_logs()
