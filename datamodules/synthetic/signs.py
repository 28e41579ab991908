"""Synthetic sign sequences: the embedded default data of `signs` (pure: numpy only).

Not recorded from anybody. The shape of the brief's private data set is copied (30 Ecuadorian signs with its sample
counts, 868 sequences of 128-d frame embeddings, at most 96 frames, pairs of near-identical takes); the content is
planted:

* 18 "postures" are random directions of a 24-d latent space. A sign is a walk through three of them; some signs share
  postures with another one (`CONFUSABLE`: same postures, other order; or two of three in common).
* A recording waits, signs and waits again: onset, speed and emphasis vary, which is why a model that compares frame
  number k with frame number k has a harder time than one that looks for postures wherever they are.
* A signer adds a style of his own: a rotation and an offset of the latent space, and his own speed.
* The latent walk is mapped to 128 dimensions by one fixed random linear map, and slowly varying noise is added.
* Every recording comes as two takes ("twins": slightly warped in time, slight noise, same group), as the even counts of
  the brief suggest. A random split that ignores `groups` puts twins on both sides: extra trees then seem to reach 0.95
  instead of the 0.67 of an honest split. One sequence is an exact duplicate of another take of its recording.
"""

from dataclasses import dataclass

import numpy as np

COUNTS = {
    "Adiós": 78, "Buenas noches": 10, "Buenas tardes": 22, "Buenos días": 22, "Clase": 18, "Comenzar": 18,
    "Compañero": 28, "Cuaderno": 18, "Cómo está": 22, "Deberes": 16, "Disculpa": 12, "Entender": 18, "Escribir": 28,
    "Escuchar": 24, "Estudiante": 28, "Examen": 18, "Explicar": 18, "Gracias": 82, "Hola": 76, "Lección": 18,
    "Leer": 28, "Libro": 18, "Lápiz": 18, "Mucho gusto": 22, "Pizarrón": 18, "Por favor": 68, "Pregunta": 22,
    "Profesor": 64, "Responder": 18, "Terminar": 18,
}  # fmt: skip
CLASS_NAMES = list(COUNTS)
# The pairs that the brief's own model mixed up: the second sign is made from the postures of the first.
CONFUSABLE = {
    "Disculpa": "Gracias",
    "Terminar": "Profesor",
    "Deberes": "Buenos días",
    "Lección": "Escribir",
    "Lápiz": "Cuaderno",
}
FEATURES, MAX_FRAMES, MIN_FRAMES = 128, 96, 24
LATENT, POSTURES, SIGNERS = 24, 18, 12


@dataclass(frozen=True)
class SyntheticSigns:
    """Sequences in the order of their ids (shuffled).

    Attributes:
        x: N arrays (T_i, 128) float32 with 24 <= T_i <= 96.
        y: (N,) int64 index into `CLASS_NAMES`.
        ids: N unique names.
        groups: N recordings; both takes of a recording have the same group.
        signers: N signers; all takes of a recording have the same signer.
    """

    x: list[np.ndarray]
    y: np.ndarray
    ids: list[str]
    groups: list[str]
    signers: list[str]


def make_signs(samples: int = 868, seed: int = 0, noise: float = 1.0, style: float = 1.0) -> SyntheticSigns:
    """Generate the data set; the same arguments give the same bytes.

    Args:
        samples: How many sequences, rounded down to an even number; the proportions are those of the brief, with at
            least two recordings (four takes) a class.
        seed: Seed of everything, postures and projection included.
        noise: Strength of the frame noise (1 = default).
        style: Strength of the signers' styles (1 = default).

    Raises:
        ValueError: For fewer than 120 samples (30 classes with two recordings of two takes).
    """
    if samples < 4 * len(COUNTS):
        raise ValueError(f"samples={samples} must be at least {4 * len(COUNTS)}: two recordings of two takes a class")
    rng = np.random.default_rng([seed, 20])
    world = _World(rng, style)
    x, y, groups, signers = [], [], [], []
    for label, recordings in enumerate(_recordings(samples)):
        for number in range(recordings):
            signer = int(rng.integers(SIGNERS))
            walk = world.recording(label, signer, noise, rng)
            for _ in range(2):
                x.append(world.take(walk, noise, rng))
                y.append(label)
                groups.append(f"recording-{label:02d}-{number:03d}")
                signers.append(f"signer-{signer:02d}")
    x[1] = x[0].copy()  # the planted exact duplicate; same recording, so a group-aware split is not disturbed
    order = rng.permutation(len(x))
    return SyntheticSigns(
        x=[x[i] for i in order],
        y=np.array(y, dtype=np.int64)[order],
        ids=[f"synthetic-{i:05d}" for i in range(len(x))],
        groups=[groups[i] for i in order],
        signers=[signers[i] for i in order],
    )


def _recordings(samples: int) -> list[int]:
    """Recordings (pairs of takes) per class, in the proportions of the brief, at least two each."""
    counts = np.array(list(COUNTS.values()))
    wanted = np.maximum(2, np.floor(counts * samples / counts.sum() / 2)).astype(int)
    while wanted.sum() > samples // 2:
        wanted[np.argmax(wanted)] -= 1
    while wanted.sum() < samples // 2:
        wanted[np.argmax(counts / wanted)] += 1
    return wanted.tolist()


class _World:
    """What is fixed for one data set: postures, signs, styles, projection."""

    def __init__(self, rng: np.random.Generator, style: float) -> None:
        self.postures = rng.normal(size=(POSTURES, LATENT)) / np.sqrt(LATENT) * 3.0
        self.rest = rng.normal(size=LATENT) / np.sqrt(LATENT)
        self.signs = self._signs(rng)
        self.offsets = style * 1.2 * rng.normal(size=(SIGNERS, LATENT)) / np.sqrt(LATENT)
        self.turns = np.eye(LATENT) + style * 0.25 * rng.normal(size=(SIGNERS, LATENT, LATENT)) / np.sqrt(LATENT)
        self.speeds = np.exp(0.2 * style * rng.normal(size=SIGNERS))
        self.projection = rng.normal(size=(LATENT, FEATURES)) / np.sqrt(LATENT)

    @staticmethod
    def _signs(rng: np.random.Generator) -> list[tuple[int, int, int]]:
        """Three postures per class, all classes different; see `CONFUSABLE`."""
        signs: dict[str, tuple[int, int, int]] = {}
        for name in sorted(CLASS_NAMES, key=CONFUSABLE.__contains__):  # the originals first
            while name not in signs:
                a, b, c = rng.choice(POSTURES, size=3, replace=False).tolist()
                if name in CONFUSABLE:
                    first, second, third = signs[CONFUSABLE[name]]
                    a, b, c = (first, third, second) if rng.random() < 0.5 else (first, second, c)
                if c not in (a, b) and (a, b, c) not in signs.values():
                    signs[name] = (a, b, c)
        return [signs[name] for name in CLASS_NAMES]

    def recording(self, label: int, signer: int, noise: float, rng: np.random.Generator) -> np.ndarray:
        """(T, 128) walk: rest, three postures, rest, with its own timing and emphasis, and slowly varying noise."""
        length = int(np.clip(rng.normal(56, 15) / self.speeds[signer], MIN_FRAMES + 2, MAX_FRAMES - 2))
        sign = rng.uniform(0.4, 0.8)  # share of the time that is signing and not waiting
        start = rng.uniform(0.02, 0.98 - sign)
        dwell = rng.dirichlet(np.full(3, 6.0)) * sign
        centres = start + np.cumsum(dwell) - dwell / 2
        targets = self.postures[list(self.signs[label])] * rng.uniform(0.8, 1.2, size=(3, 1))
        targets = targets + 0.15 * rng.normal(size=targets.shape)  # nobody does it twice in the same way
        time = np.linspace(0, 1, length)[:, None]
        rise = 1 / (1 + np.exp(-np.clip((time - centres + dwell / 2) * length / 1.5, -30, 30)))
        fall = 1 / (1 + np.exp(-np.clip((centres + dwell / 2 - time) * length / 1.5, -30, 30)))
        share = rise * fall  # (T, 3): which posture, with transitions of a few frames
        drift = rng.normal(size=(2, LATENT)) * 0.3 / np.sqrt(LATENT)
        idle = self.rest + np.sin(2 * np.pi * time) * drift[0] + time * drift[1]
        latent = share @ targets + (1 - share.sum(axis=1, keepdims=True).clip(max=1)) * idle
        clean = (latent @ self.turns[signer] + self.offsets[signer]) @ self.projection
        knots = noise * 0.5 * rng.normal(size=(length // 3 + 2, FEATURES))
        return clean + _at(knots, np.arange(length) / 3)

    def take(self, walk: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
        """One of the two takes of a recording: a little faster or slower, and the noise of its own frames."""
        length = int(np.clip(len(walk) + rng.integers(-2, 3), MIN_FRAMES, MAX_FRAMES))
        time = np.linspace(0, 1, length)
        frames = _at(walk, (time + rng.normal(0, 0.002) * np.sin(np.pi * time)) * (len(walk) - 1))
        return (frames + noise * 0.06 * rng.normal(size=frames.shape)).astype(np.float32)


def _at(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Values of `rows` (T, D) at fractional row numbers `place` (S,), linearly interpolated: (S, D)."""
    low = np.clip(place.astype(int), 0, len(rows) - 2)
    part = (place - low).clip(0, 1)[:, None]
    return rows[low] * (1 - part) + rows[low + 1] * part
