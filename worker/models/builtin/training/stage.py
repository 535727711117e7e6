"""What the three training stages share: progress, checkpoints written whole, resuming, learning rate.

A stage is a loop of numbered steps. Its state is saved every few hundred of them, so that a run that was
stopped goes on where it was; random numbers are drawn from (seed, step) and need no saving.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

SAVE_EVERY = 400


@dataclass(frozen=True)
class Stage:
    """Where a stage keeps its checkpoint, how long it runs, and on what."""

    name: str
    steps: int
    work: Path
    device: torch.device
    seed: int
    learning_rate: float
    warmup: int = 200

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.name}.pt"

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 2 % of `learning_rate`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def generator(self, step: int) -> torch.Generator:
        """The random numbers of one step, the same on every run."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def autocast(self) -> torch.autocast:
        """bf16, save on processors without it, where its emulation takes ten times as long as fp32."""
        able = torch.cpu.get_capabilities()
        native = self.device.type != "cpu" or any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native)

    def run(
        self,
        modules: dict[str, nn.Module],
        loss_at: Callable[[int, torch.Generator], torch.Tensor],
        after_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train the parameters of `modules` that want a gradient; `loss_at` draws its batch from the generator."""
        parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        first = self._restore(modules, optimizer)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}")) as progress:
            task = progress.add_task(self.name, total=self.steps, completed=first, loss=float("nan"))
            average = None
            for step in range(first, self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.rate(step)
                loss = loss_at(step, self.generator(step))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                after_step(step)
                if step % 20 == 0:
                    value = float(loss.detach())
                    average = value if average is None else 0.9 * average + 0.1 * value
                    progress.update(task, completed=step + 1, loss=average)
                if (step + 1) % SAVE_EVERY == 0 or step + 1 == self.steps:
                    progress.update(task, completed=step + 1)
                    self._save(modules, optimizer, step + 1)
                    progress.console.log(f"{self.name}: step {step + 1} of {self.steps}, loss {average:.4f}")

    def _save(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
        state: dict[str, Any] = {name: module.state_dict() for name, module in modules.items()}
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save({"step": step, "optimizer": optimizer.state_dict(), "modules": state}, temporary)
        temporary.replace(self.checkpoint)

    def _restore(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
