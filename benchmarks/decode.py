"""CPU time from a video to patches, on one core: ours, bare decoding, and the released pipeline.

    python benchmarks/decode.py [SOURCE] [--peer PYTHON]

SOURCE (by default the shipped clip) is encoded again at 240p, 480p and 720p (x264 with its defaults: up
to 250 frames between key frames, three B-frames), repeated to fill --seconds. Frames are sampled at
2 FPS and sized by both pixel budgets. Every figure is the CPU time of all threads, in milliseconds a
sampled frame: the smallest of several rounds, in which the candidates alternate.

bare       PyAV decodes every frame up to the last sampled one, and converts none
pictures   the same, and the sampled frames become RGB arrays: the minimum that any loader must do
ours       livecc_jax.media.clips.MediaSlice.load_patches
released   decord, torch's antialiased bicubic, and the image processor of transformers 4.50 (which also
           normalises; ours does that on the device). --peer names a Python with decord==0.6.0,
           transformers==4.50.0, torch and pillow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEIGHTS = (240, 480, 720)
BUDGETS = ("384", "reference")
RATIOS = ("ours / bare", "ours / pictures")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def encode(source: Path, out: Path, height: int, seconds: float) -> None:
    """Encodes the source at another height, repeated to a duration."""
    import av

    with av.open(str(source)) as original:
        stream = original.streams.video[0]
        rate = Fraction(stream.average_rate)
        width = round(stream.width / stream.height * height / 2) * 2
        pictures = [f.reformat(width, height, "yuv420p") for f in original.decode(stream)]
    with av.open(str(out), "w") as copy:
        encoder = copy.add_stream("libx264", rate=rate)
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        for number in range(int(seconds * rate)):
            picture = pictures[number % len(pictures)]
            picture.pts, picture.time_base = number, 1 / rate
            copy.mux(encoder.encode(picture))
        copy.mux(encoder.encode())


def measure(jobs: dict, rounds: int) -> dict[str, float]:
    """Returns the smallest CPU time of each job, in seconds."""
    best = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            best[name] = min(best.get(name, 1e9), time.process_time() - start)
    return best


def ours(task: dict) -> dict[str, float]:
    """Measures our loader for one clip and budget, and what it is compared with."""
    import av
    import numpy as np

    from livecc_jax.media.clips import MediaSlice
    from livecc_jax.media.decode import RGBConverter
    from livecc_jax.media.pixels import Resizer, patchify_planes
    from livecc_jax.media.video import probe, read_frames

    info = probe(task["clip"])
    indices, size = task["indices"], tuple(task["size"])
    times = info.frame_times_us[indices]
    clip = MediaSlice(info, np.array(indices), times, *size)
    first_pair = MediaSlice(info, np.array(indices[:2]), times[:2], *size)
    sampled = set(indices)
    first_frames = read_frames(info, indices[:8])
    resizer = Resizer(first_frames.shape[1:3], size)
    pair = np.empty((2, 3, *size), np.uint8)
    patches = np.empty((size[0] * size[1] // 196, 1176), np.uint8)

    def bare(convert: bool) -> None:
        converter = RGBConverter("")
        with av.open(task["clip"]) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                if convert and number in sampled:
                    converter(frame)
                if number == indices[-1]:
                    return

    frames_ratio = len(indices) / len(first_frames)
    jobs = {
        "bare": lambda: bare(False),
        "pictures": lambda: bare(True),
        "ours": clip.load_patches,
        "ours, decode": lambda: read_frames_one_by_one(info, indices),
        "ours, resize": lambda: [resizer(f, pair[0]) for f in first_frames],
        "ours, patchify": lambda: [patchify_planes(pair, patches) for _ in first_frames[::2]],
    }
    best = measure(jobs, task["rounds"])
    for name in ("ours, resize", "ours, patchify"):
        best[name] *= frames_ratio
    np.save(task["out"], first_pair.load_patches()[0])
    return best


def read_frames_one_by_one(info, indices) -> None:
    """Decodes the frames and keeps none."""
    from livecc_jax.media.video import iter_frames

    for _ in iter_frames(info, indices):
        pass


def released(task: dict) -> dict[str, float]:
    """Measures the released pipeline, in a Python that has its libraries."""
    import decord
    import numpy as np
    import torch
    from transformers import Qwen2VLImageProcessor

    torch.set_num_threads(1)
    processor = Qwen2VLImageProcessor(do_resize=False)

    def pixels(indices: list[int]) -> torch.Tensor:
        reader = decord.VideoReader(task["clip"], num_threads=1)
        frames = torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)
        frames = torch.nn.functional.interpolate(
            frames.float(), tuple(task["size"]), mode="bicubic", antialias=True
        )
        frames = frames.clamp(0, 255).round().to(torch.uint8)
        return processor(images=None, videos=[frames], return_tensors="pt")["pixel_values_videos"]

    best = measure({"released": lambda: pixels(task["indices"])}, max(2, task["rounds"] // 4))
    values = pixels(task["indices"][:2]).numpy().reshape(-1, 3, 392)
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    values = (values * std[:, None] + mean[:, None]) * 255
    ours = np.load(task["out"]).reshape(values.shape)
    return best | {"largest difference": float(np.abs(values - ours).max())}


def in_process(python: str, kind: str, task: dict, core: int) -> dict[str, float]:
    """Runs one worker, alone on one core, and returns its figures."""
    command = [python, __file__, "--worker", kind]
    environment = os.environ | ONE_THREAD | ({"PYTHONPATH": str(ROOT)} if kind == "ours" else {})
    process = subprocess.run(
        command, input=json.dumps(task), capture_output=True, text=True, env=environment, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    if process.returncode:
        sys.exit(process.stderr)
    return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", nargs="?", type=Path, default=ROOT / "data/clips/bbb_espeak_narration_30s.mp4"
    )
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has the released system")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--heights", type=int, nargs="+", default=HEIGHTS)
    parser.add_argument("--worker", choices=("ours", "released"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        task = json.load(sys.stdin)
        print(json.dumps({"ours": ours, "released": released}[args.worker](task)))
        return

    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.sampling import sample_strict
    from livecc_jax.media.video import probe

    columns = ["bare", "pictures", "ours", "ours, decode", "ours, resize", "ours, patchify"]
    columns += ["released"] if args.peer else []
    print("| " + " | ".join(["source", "budget", "resized to", *columns, *RATIOS]) + " |")
    print("|---" * (len(columns) + 5) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for height in args.heights:
            clip = Path(folder) / f"{height}.mp4"
            encode(args.source, clip, height, args.seconds)
            info = probe(clip)
            indices = sample_strict(info.frame_times_us).tolist()
            for budget in BUDGETS:
                size = PixelBudget.parse(budget).size(info.height, info.width, len(indices))
                out = f"{folder}/patches.npy"
                task = {"clip": str(clip), "indices": indices, "size": size, "out": out}
                task["rounds"] = args.rounds
                seconds = in_process(sys.executable, "ours", task, args.core)
                if args.peer:
                    seconds |= in_process(args.peer, "released", task, args.core)
                ms = [f"{1000 * seconds[c] / len(indices):.1f}" for c in columns]
                ratios = [f"{seconds['ours'] / seconds[c]:.2f}" for c in ("bare", "pictures")]
                cells = [f"{info.width}x{info.height}", budget, f"{size[1]}x{size[0]}", *ms, *ratios]
                print("| " + " | ".join(cells) + " |", flush=True)
                if args.peer:
                    print(f"largest difference to the released pixels: "
                          f"{seconds['largest difference']:.2f}/255", file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    main()
