"""The engine that a configuration asks for, on every replica that its GPU mode places."""

from __future__ import annotations

from argo.calls import Engine
from argo.schema import ArgoConfig
from suite.config import RunConfig
from suite.errors import UserError


def open_engine(cfg: RunConfig) -> Engine:
    """An engine that is ready to answer.

    Raises:
        UserError: the model is not configured, cannot be placed on this machine, loaded, or run as the task asks.
    """
    task: ArgoConfig = cfg.task
    if task.engine == "openai":
        from argo.openai_engine import OpenAIEngine

        return OpenAIEngine(task)
    if "llm" not in cfg.models:
        raise UserError("models.llm is not configured; task.engine=transformers needs it. Choose models=smollm2_rag.")
    from argo.pool import ReplicaPool
    from argo.transformers_engine import TransformersEngine
    from suite.models.loading import load, place

    spec = cfg.models["llm"]
    replicas = place(spec, hardware=cfg.hardware, gpu_mode=cfg.gpu_mode).replicas
    engines = [
        TransformersEngine(
            load(spec, placement=replica, hardware=cfg.hardware),
            prompt_format=task.prompt_format,
            batch=task.batch_size,
        )
        for replica in replicas
    ]
    return engines[0] if len(engines) == 1 else ReplicaPool(engines)
