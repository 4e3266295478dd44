"""The GRU in Keras 3 on TensorFlow, run by ``worker.py`` in its environment.

The model is ``keras.layers.GRU(reset_after=True)`` with one-hot inputs and a ``Dense`` layer, which
is the function of ``nn.GRU``. It is trained with ``train_on_batch``. ``fit`` was slower, as it has
a set-up cost per epoch, and an epoch has eight minibatches. Each minibatch starts from a zero
state.
"""

from __future__ import annotations

import os

from benchmarks.peers.serving import Job, Minibatch, Peer, serve


def build(job: Job) -> Peer:
    """Build the compiled model. Raises RuntimeError if the device is a GPU."""
    if job.device == "cuda":
        raise RuntimeError("tensorflow-cpu computes on the CPU only")
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras  # type: ignore[import-not-found]
    import tensorflow as tf  # type: ignore[import-untyped]

    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    keras.utils.set_random_seed(job.seed)
    V = job.vocab_size
    tokens = keras.Input((job.num_steps,), batch_size=job.batch_size, dtype="int32")
    one_hot = keras.layers.Embedding(V, V, embeddings_initializer="identity", trainable=False)
    gru = keras.layers.GRU(job.hidden_size, return_sequences=True, reset_after=True)
    model = keras.Model(tokens, keras.layers.Dense(V)(gru(one_hot(tokens))))
    model.compile(
        optimizer=keras.optimizers.SGD(job.lr, global_clipnorm=job.clip_norm),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def train_epoch(minibatches: list[Minibatch]) -> float:
        model.reset_metrics()
        mean = float("nan")
        for X, Y in minibatches:
            mean = model.train_on_batch(X, Y)  # over the epoch so far
        return float(mean)

    return Peer({"keras": keras.__version__, "tensorflow": tf.__version__}, train_epoch)


if __name__ == "__main__":
    serve(build)
