"""Runs one job: its trainings and evaluations, with the data that all jobs share."""

import dataclasses
import functools
import time

import numpy as np

from benchmarks.ablations import scoring
from benchmarks.ablations.examples import (
    cut_at_silences,
    question_examples,
    whole,
    with_context,
)
from benchmarks.ablations.matches import StoredFiles
from benchmarks.ablations.training import Rows, encode_all, train
from benchmarks.ablations.variants import BASE_MATCHES, Test
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.families.qwen2_vl import PATCH_VALUES
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.lora import LoraConfig
from livecc_jax.stream.history import EvictionPolicy
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.turns import stream_prompt

LONG_CONTEXT = 12_288  # tokens of a context that keeps everything
ASKED = 32  # matches about which questions are asked, one by one
CAPTIONED = 32  # matches that are captioned, one by one


def lora_config(stage):
    return LoraConfig(rank=stage.lora, alpha=2.0 * stage.lora) if stage.lora else LoraConfig()


class GreyFiles(StoredFiles):
    """Every picture is grey: what can be learned from words alone."""

    def patches(self, media):
        return np.full((media.pairs, media.patches_per_pair, PATCH_VALUES), 128, np.uint8)


class Lab:
    """Data and settings that jobs share.

    Args:
        train_matches: Matches to train on.
        test_matches: Matches to test on.
        long_matches: Matches of half an hour, to test long streams on.
        tokenizer: Tokenizer of the world.
        recipe: Sizes and steps.
        steps_scale: Multiplies the recipe's steps, for tries.
        log: Called with progress.
    """

    def __init__(self, train_matches, test_matches, long_matches, tokenizer, recipe, steps_scale=1.0,
                 log=print):  # fmt: skip
        self.train_matches, self.test_matches = train_matches, test_matches
        self.long_matches = long_matches
        self.tokenizer, self.recipe, self.log = tokenizer, recipe, log
        self.steps_scale = steps_scale
        self.template = ChatTemplate(tokenizer)
        self.budget = PixelBudget.parse(recipe.budget)
        self.model = recipe.model(tokenizer)
        self.trained = {}  # by seed and stages
        self.shape = RowShape(recipe.tokens, recipe.windows, 4 * recipe.budget, recipe.targets)

    def warm_up(self):
        """Compiles what streams run, with untrained parameters, while something else is trained."""
        import jax

        from livecc_jax.model.qwen2_vl import init_params

        params = jax.jit(lambda: init_params(self.model, 0))()
        matches = self.test_matches[: self.recipe.test_batch]
        test = Test("warm-up")
        streams = [scoring.streamed_clip(m, self.prompt(m, test), self.recipe.size) for m in matches]
        streams = [dataclasses.replace(s, frames=s.frames[:12]) for s in streams]
        scoring.stream(
            self.model, params, self.tokenizer, streams, batch=self.recipe.test_batch,
            context=self.recipe.context,
        )  # fmt: skip

    def run(self, job):
        """Yields a result for each evaluation of a job."""
        params = None
        for number, (stage, tests) in enumerate(job.stages):
            began = time.perf_counter()
            # Jobs that begin alike share what they have in common.
            key = job.seed, tuple(s for s, _ in job.stages[: number + 1])
            if key not in self.trained:
                self.trained[key] = self.train(stage, job.seed, params)
                seconds = time.perf_counter() - began
                self.log(f"{job.key}: stage {number} in {seconds:.0f} s, {self.trained[key].stats}")
            trained = self.trained[key]
            params = trained.params
            for test in tests:
                began = time.perf_counter()
                counts, more = self.test(test, params)
                result = {
                    "arm": job.arm, "variant": test.variant, "job": job.key, "seed": job.seed,
                    "stage": number, "text": test.text, "kind": test.kind,
                    "metrics": scoring.summary(counts) if counts else {},
                    "clips": [[c.in_time, c.any_time, c.said, c.reference, c.true] for c in counts],
                    "errors": scoring.errors(counts) if counts else {},
                    "train": trained.stats,
                    "losses": trained.curve(),
                    "test_seconds": round(time.perf_counter() - began, 1),
                    "last": stage is job.stages[-1][0] and test is tests[-1],
                } | more  # fmt: skip
                yield result

    def train(self, stage, seed, params):
        r = self.recipe
        matches = self.train_matches[: stage.times * BASE_MATCHES]
        files = (GreyFiles if stage.blind else StoredFiles)(self.train_matches)
        examples = self.examples(stage, matches)
        options = {"form": stage.form}
        if stage.tail:
            options["silent_tail"] = stage.tail
        encoded, rejected = encode_all(examples, self.template, self.budget, files, **options)
        if stage.split:
            encoded = self.split(examples, encoded, stage, files)
        steps = max(10, round(r.steps * self.steps_scale * stage.share))
        rows = Rows(
            encoded, self.shape, self.tokenizer.special, r.rows_per_step, steps,
            seed=seed, positions=stage.positions, weighting=stage.weighting, pack=stage.pack,
        )  # fmt: skip
        lora = lora_config(stage)
        optim = r.optim(learning_rate=r.learning_rate * stage.rate)
        trained = train(self.model, rows, optim, r.compute(lora=lora), seed, params, log=self.log)
        trained.params = self.merged(stage, trained.params)
        trained.stats |= {
            "matches": len(matches),
            "examples": len(encoded.encoded),
            "rejected": rejected,
        }
        return trained

    def examples(self, stage, matches):
        if stage.cut:
            cut = functools.partial(cut_at_silences, tail_us=stage.tail * 1_000_000)
            examples = [e for m in matches for e in cut(m, stage.text, context=stage.context)]
        else:
            examples = [whole(m, stage.text, stage.context) for m in matches]
        examples *= stage.repeat
        if stage.questions:
            asked = self.train_matches[: stage.questions * BASE_MATCHES]
            examples += [e for m in asked for e in question_examples(m)]
        return examples

    def split(self, examples, encoded, stage, files):
        from livecc_jax.data.examples.split import split_example

        parts = []
        for example, whole_one in zip(examples, encoded.encoded, strict=True):
            context = "previous" in stage.context
            parts += [
                part
                for _, part in split_example(
                    example, whole_one, self.template, self.budget, context, stage.split, files=files
                )
            ]
        return dataclasses.replace(encoded, encoded=parts)

    def merged(self, stage, params):
        """Parameters in which adapters are merged, if there are any."""
        if not stage.lora:
            return params
        from livecc_jax.evaluate.run.clip_commentary import fetch_merged_params
        from livecc_jax.parallel.mesh import MeshConfig, make_mesh

        compute = dataclasses.replace(self.recipe.compute(), dtype="float32", lora=lora_config(stage))
        return fetch_merged_params(params, make_mesh(MeshConfig(devices=1)), compute)

    def test(self, test, params):
        """Returns (counts of each test match, further entries of the result)."""
        if test.kind == "questions":
            return [], self.ask(test, params)
        if test.kind == "long":
            return self.stream_long(test, params)
        matches = self.test_matches
        if test.kind == "caption":
            matches = matches[:CAPTIONED]
        clips = [scoring.fact_clip(m, test.text) for m in matches]
        if test.kind == "caption":
            return scoring.score(clips, self.caption(test, params, matches)), {}
        streams = [scoring.streamed_clip(m, self.prompt(m, test), self.recipe.size) for m in matches]
        if test.blind:
            streams = [scoring.blank(s) for s in streams]
        said = scoring.stream(
            self.model, params, self.tokenizer, streams, positions=test.positions,
            precision=test.precision, cache_precision=test.cache, memory=test.memory,
            batch=self.recipe.test_batch, context=self.recipe.context,
        )  # fmt: skip
        sample = {"sample": [t.text for t in said[matches[0].path]]}
        return scoring.score(clips, said), sample

    def stream_long(self, test, params):
        """Streams long matches; F1 by minute is among the further entries."""
        clips = [scoring.fact_clip(m, test.text) for m in self.long_matches]
        size = self.recipe.size
        streams = [scoring.streamed_clip(m, self.prompt(m, test), size) for m in self.long_matches]
        context = LONG_CONTEXT
        if test.window:
            policy = EvictionPolicy(test.window, sink=64, window=192)
            # A turn of these streams has no more than 64 tokens.
            context = 512 * -(-policy.max_tokens(self.recipe.budget * 3 + 256, 64) // 512)
        said = scoring.stream(
            self.model, params, self.tokenizer, streams, positions=test.positions,
            batch=len(streams), context=context,
            **({"eviction": policy} if test.window else {}),
        )  # fmt: skip
        minutes = scoring.by_minute(clips, said)
        return scoring.score(clips, said), {"by_minute": minutes, "context": context}

    def prompt(self, match, test):
        example = with_context(whole(match, test.text), test.context)
        return stream_prompt(example.query, example.title, example.previous)

    def caption(self, test, params, matches):
        """The words of matches as generated after all of their frames, as one turn at the end."""
        from livecc_jax.decoding.options import StreamOptions
        from livecc_jax.evaluate.metrics.commentary import PredictedTurn
        from livecc_jax.media.clips import SampledFrames
        from livecc_jax.stream.ask import VideoChat
        from livecc_jax.stream.model import StreamModel

        model = StreamModel(self.model, scoring.bfloat16(params), self.tokenizer)
        options = StreamOptions(repetition_penalty=1.0, context=self.recipe.context, reserve=1024)
        said = {}
        for match in matches:
            chat = VideoChat(model, options, SampledFrames("video", np.asarray(match.frames)))
            text = chat.ask(self.prompt(match, test), 512).text
            end = round(match.seconds * 1e6)
            said[match.path] = [PredictedTurn(end - 1_000_000, end, text.replace(" ...", " ").strip())]
        return said

    def ask(self, test, params):
        """Accuracy of the questions about test matches."""
        from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
        from livecc_jax.evaluate.run.choice import ChoiceScorer
        from livecc_jax.evaluate.run.sampled_video import SampledVideo

        params = scoring.bfloat16(params)
        scorer = ChoiceScorer(self.model, params, self.tokenizer, test.positions, PromptTemplate())
        matches = self.test_matches[:ASKED]
        encoded, _ = encode_all(
            [e for m in matches for e in question_examples(m)],
            self.template, self.budget, StoredFiles(self.test_matches),
        )  # fmt: skip
        flat = [(text, letter) for m in matches for text, letter, _ in m.questions]
        right = []
        for i, (text, letter) in enumerate(flat):
            example, [patches] = encoded.loaded(i)
            options = [x[0] for x in text.split("\n")[1:-1]]
            [scores] = scorer.score(SampledVideo(patches, example.media[0].grid), [text], [options])
            right.append(options[int(np.argmax(scores.logits))] == letter)
        return {"accuracy": round(100 * float(np.mean(right)), 2), "questions": len(right)}
