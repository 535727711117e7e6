"""LitServe with its own batching: up to eight requests that come within 50 ms, drawn by the stock pipeline.

LitServe reads the annotations of its hooks when it starts, so here they are types and not text.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import litserve
from fastapi import Request

from benches.speed.arms.pipeline import as_base64_png, draw, load
from benches.speed.job import Job

WINDOW_S = 0.05
LARGEST = 8


class Drawing(litserve.LitAPI):  # type: ignore[misc]
    """LitServe batches whatever comes; within a batch only equal jobs can share a call of the pipeline."""

    def __init__(self, model: Path) -> None:
        super().__init__(max_batch_size=LARGEST, batch_timeout=WINDOW_S, api_path="/draw")
        self.model = model

    def setup(self, device: str) -> None:
        """In the process that computes."""
        self.pipeline = load(self.model, device=device)

    def decode_request(self, request: Request) -> Job:
        """From JSON; a hook that is annotated with a request is given the parsed body."""
        return Job(**cast(dict[str, Any], request))

    def batch(self, inputs: list[Job]) -> list[Job]:
        """Jobs stay a list: they are no tensors."""
        return inputs

    def predict(self, x: list[Job]) -> list[Any]:
        """Pictures in the order of the jobs."""
        alike: defaultdict[Job, list[int]] = defaultdict(list)
        for place, job in enumerate(x):
            alike[Job("", 0, job.steps, job.guidance_scale, job.width, job.height)].append(place)
        images: dict[int, Any] = {}
        for places in alike.values():
            images |= dict(zip(places, draw(self.pipeline, [x[place] for place in places]), strict=True))
        return [images[place] for place in range(len(x))]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """One for each request."""
        return output

    def encode_response(self, output: Any) -> dict[str, str]:
        """To JSON."""
        return {"image": as_base64_png(output)}


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    server = litserve.LitServer(Drawing(args.model), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=args.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
