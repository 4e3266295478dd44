"""The textbook's GRU in JAX (``lax.scan`` with ``jit``), run by ``worker.py`` in its environment.

The equations are those of scratch with the reset gate before the product, in the fastest form
found: the inputs' part is computed for all steps before the scan (looked up, or one product with
embeddings), the products of the update and the reset gate are joined, and one product after the
scan gives all logits. It uses clipped SGD with one update per minibatch, and carries the state from
one minibatch to the next.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.peers.serving import Job, Minibatch, Peer, serve


def build(job: Job) -> Peer:
    """Build the model and its update. Raises RuntimeError if a GPU is needed and JAX has none."""
    if job.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # other processes use the GPU too
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]

    if job.device == "cuda":
        if jax.default_backend() != "gpu":
            raise RuntimeError("JAX finds no GPU")
        jax.config.update("jax_default_matmul_precision", "float32")  # its default there is TF32
    V, H, embedding = job.vocab_size, job.hidden_size, job.embedding_size
    shapes = {"W_x": (embedding or V, 3 * H), "W_zr": (H, 2 * H), "W_hh": (H, H), "W_q": (H, V)}
    if embedding is not None:
        shapes["E"] = V, embedding
    keys = jax.random.split(jax.random.PRNGKey(job.seed), len(shapes))
    weights = {
        name: jax.random.normal(key, shape) * 0.01
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    weights |= {"b": jnp.zeros(3 * H), "b_q": jnp.zeros(V)}

    def loss(weights: dict[str, Any], X: Any, Y: Any, state: Any) -> tuple[Any, Any]:
        if embedding is None:
            inputs = (weights["W_x"] + weights["b"])[X.T]  # (T, B, 3H)
        else:
            inputs = weights["E"][X.T] @ weights["W_x"] + weights["b"]

        def step(h: Any, x: Any) -> tuple[Any, Any]:
            zr = jax.nn.sigmoid(x[:, : 2 * H] + h @ weights["W_zr"])
            z, r = zr[:, :H], zr[:, H:]
            candidate = jnp.tanh(x[:, 2 * H :] + (r * h) @ weights["W_hh"])
            h = z * h + (1 - z) * candidate
            return h, h

        state, states = jax.lax.scan(step, state, inputs)  # (B, H), (T, B, H)
        logs = jax.nn.log_softmax(states @ weights["W_q"] + weights["b_q"])  # (T, B, V)
        return -jnp.take_along_axis(logs, Y.T[..., None], -1).mean(), state

    @jax.jit  # type: ignore[untyped-decorator]
    def update(weights: dict[str, Any], X: Any, Y: Any, state: Any) -> tuple[Any, Any, Any]:
        (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(weights, X, Y, state)
        norm = jnp.sqrt(sum((gradient**2).sum() for gradient in jax.tree.leaves(gradients)))
        step = job.lr * jnp.minimum(1.0, job.clip_norm / norm)
        return jax.tree.map(lambda w, g: w - step * g, weights, gradients), value, state

    def train_epoch(minibatches: list[Minibatch]) -> float:
        nonlocal weights
        state, losses = jnp.zeros((job.batch_size, H)), []
        for X, Y in minibatches:
            weights, value, state = update(weights, X, Y, state)
            losses.append(value)
        jax.block_until_ready(weights)
        return sum(float(value) for value in losses) / len(losses)

    return Peer({"jax": jax.__version__}, train_epoch)


if __name__ == "__main__":
    serve(build)
