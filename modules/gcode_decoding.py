"""Lines of G-code from a decoder: greedy, with a beam or sampled; the grammar as hard masks; windows side by side.

At each step a window has candidates: the entries of the vocabulary (the flat head answers), or the end, each command,
each letter and some numbers (the heads of the fields answer: type, then command, letter, or sign and digits).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modules.gcode_tables import Lines, TokenTables
from modules.gcode_tokens import BOS, COMMAND, EOS, LETTER, MINUS, NUMBER, PAD, SPECIAL, ZERO
from modules.keyed import keyed_normal
from modules.nets.gcode_decoder import LSTMDecoder, SensorMultiHeadDecoder, State

Layout = Literal["flat", "heads"]
Decoder = SensorMultiHeadDecoder | LSTMDecoder
_LOOK = 4  # steps between looks at whether all lines have ended, each of which waits for the device


@dataclass(frozen=True)
class Decoding:
    """How lines are written.

    Args:
        method: The most probable token each time; the best of several lines; or at random.
        beams: Lines that a beam keeps.
        length_penalty: Exponent of the length by which a beam divides the log-probability of a line.
        temperature: Divides the logits of a random choice.
        top_k: Candidates of a random choice; 0 = all.
        top_p: Probability that the candidates of a random choice have together.
        grammar: Only what the grammar of a line allows.
        seed: Of random choices.

    Raises:
        ValueError: For a number outside its range.
    """

    method: Literal["greedy", "beam", "sample"] = "greedy"
    beams: int = 5
    length_penalty: float = 0.6
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    grammar: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.beams < 1 or self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("decoding needs beams >= 1, temperature > 0, top_k >= 0 and 0 < top_p <= 1")


@dataclass(frozen=True)
class Written:
    """Lines that were written.

    Attributes:
        tokens: (B, T) ids, EOS included, PAD after it.
        fields: (B, T, F), -1 after EOS.
        log_prob: (B, T) of each token, before the grammar forbade others; 0 after EOS.
        ended: (B,) whether EOS was written.
    """

    tokens: Tensor
    fields: Tensor
    log_prob: Tensor
    ended: Tensor


@dataclass(frozen=True)
class _Candidates:
    """What may come next: ``log_prob`` (B, K), ``choice`` (B, K) by which one is chosen, and tokens."""

    log_prob: Tensor
    choice: Tensor
    tokens: Tensor  # (B, K)
    fields: Tensor  # (B, K, F)


class Writer:
    """Writes the lines of a batch of windows.

    Args:
        decoder: In evaluation mode, with the heads that the layout needs.
        tables: Of its vocabulary.
        layout: Which heads answer.
        settings: How.
        cached: Keep keys and values; without it each step reads all tokens anew, with the same results.

    Raises:
        ValueError: The decoder is in training, or has no such heads.
    """

    def __init__(
        self, decoder: Decoder, tables: TokenTables, layout: Layout, settings: Decoding, cached: bool = True
    ) -> None:
        has = decoder.heads.flat is not None if layout == "flat" else decoder.heads.number is not None
        if decoder.training or not has:
            raise ValueError(f"writing needs a decoder in evaluation mode that has the heads of layout={layout!r}")
        self.decoder, self.tables, self.layout, self.settings, self.cached = decoder, tables, layout, settings, cached
        self.width = settings.beams if settings.method == "beam" else 1
        fields = tables.fields
        commands, params = len(tables.possible), len(tables.known)
        fixed = fields.new_full((1 + commands + params, fields.shape[1]), -1)
        fixed[0, 0] = SPECIAL
        fixed[1 : 1 + commands, 0], fixed[1 + commands :, 0] = COMMAND, LETTER
        fixed[1 : 1 + commands, 1] = torch.arange(commands, device=fields.device)
        fixed[1 + commands :, 2] = torch.arange(params, device=fields.device)
        self.fixed = fixed
        self.generator = torch.Generator(fields.device).manual_seed(settings.seed)
        self.keys: Tensor | None = None  # of the windows that are being written
        self.draws = 0  # random choices of each of them so far

    def write(self, context: State, limit: int, keys: Tensor | None = None) -> Written:
        """Write lines.

        Args:
            context: From ``TokenDecoder.prepare``.
            limit: Most tokens of a line.
            keys: (B,) numbers of the windows, on which random choices depend: the same in any batch. ``None`` draws
                from the generator of ``settings.seed``.
        """
        rows, beam = len(context["operation"]), self.width
        self.keys, self.draws = keys, 0
        device, places = self.tables.fields.device, self.tables.fields.shape[1]
        context = {name: x.repeat_interleave(beam, 0) for name, x in context.items()} if beam > 1 else context
        size = rows * beam
        tokens = torch.full((size, 1), BOS, device=device)
        fields = torch.full((size, 1, places), -1, device=device)
        log_prob = torch.zeros(size, 1, device=device)
        ended = torch.zeros(size, dtype=torch.bool, device=device)
        lines = self.tables.start(size)
        cache = self.decoder.new_cache(context) if self.cached else None
        for step in range(limit):
            if cache is not None:
                hidden, cache = self.decoder.hidden(context, tokens[:, -1:], fields[:, -1:], cache, step)
            else:
                hidden = self.decoder.hidden(context, tokens, fields)[0][:, -1:]
            found = self._candidates(hidden, context["operation"], lines)
            parent, token, field, more = self._choose(found, log_prob, ended)
            if beam > 1:
                tokens, fields, log_prob, ended = tokens[parent], fields[parent], log_prob[parent], ended[parent]
                lines = {name: x[parent] for name, x in lines.items()}
                cache = None if cache is None else {name: x[parent] for name, x in cache.items()}
            token, field = token.masked_fill(ended, PAD), field.masked_fill(ended[:, None], -1)
            tokens, fields = torch.cat([tokens, token[:, None]], 1), torch.cat([fields, field[:, None]], 1)
            log_prob = torch.cat([log_prob, more.masked_fill(ended, 0.0)[:, None]], 1)
            ended, lines = ended | (token == EOS), self.tables.advance(lines, field)
            if step % _LOOK == _LOOK - 1 and bool(ended.all()):
                break
        tokens, fields, log_prob = tokens[:, 1:], fields[:, 1:], log_prob[:, 1:]
        if beam > 1:
            best = self._best(tokens, log_prob, ended)
            tokens, fields, log_prob, ended = tokens[best], fields[best], log_prob[best], ended[best]
        return Written(tokens, fields, log_prob, ended)

    def _choose(self, found: _Candidates, log_prob: Tensor, ended: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for each line of the next step its parent, token, fields and log-probability (all (B,))."""
        size, count = found.choice.shape
        each = torch.arange(size, device=found.choice.device)
        if self.settings.method == "beam":
            # An ended line is carried on once, as it is; at first all lines of a window are the same one.
            beam = self.width
            ahead = found.log_prob.masked_fill(ended[:, None], -torch.inf)
            ahead[:, 0] = torch.where(ended, 0.0, ahead[:, 0])
            total = log_prob.sum(1, keepdim=True) + ahead
            if log_prob.shape[1] == 1:
                total = total.masked_fill((each % beam > 0)[:, None], -torch.inf)
            place = total.view(-1, beam * count).topk(beam, 1).indices
            parent = (place // count + each[::beam, None]).flatten()
            column = (place % count).flatten()
        else:
            parent = each
            column = self._drawn(found.choice) if self.settings.method == "sample" else found.choice.argmax(1)
        picked = parent, column
        return parent, found.tokens[picked], found.fields[picked], found.log_prob[picked]

    def _best(self, tokens: Tensor, log_prob: Tensor, ended: Tensor) -> Tensor:
        """Return the best line of each window (B,): one that has ended, by its penalised log-probability."""
        length = (tokens != PAD).sum(1).clamp(min=1)
        score = log_prob.sum(1) / length**self.settings.length_penalty
        score = torch.where(ended, score, score - 1e6).view(-1, self.width)
        return score.argmax(1) + torch.arange(0, len(tokens), self.width, device=tokens.device)

    def _drawn(self, logits: Tensor) -> Tensor:
        """Return a random index (B,) of logits (B, K), within temperature, top-k and top-p."""
        logits = logits.float() / self.settings.temperature
        order = logits.sort(1, descending=True)
        prob = order.values.softmax(1)
        out = prob.cumsum(1) - prob >= self.settings.top_p
        if self.settings.top_k:
            out[:, self.settings.top_k :] = True
        out[:, 0] = False
        prob = prob.masked_fill(out, 0.0)
        if self.keys is None:
            place = prob.multinomial(1, generator=self.generator)
        else:
            self.draws += 1
            uniform = torch.special.ndtr(keyed_normal(self.keys, (1,), self.settings.seed, self.draws).double())
            total = prob.double().cumsum(1)
            place = (total <= uniform * total[:, -1:]).sum(1, keepdim=True).clamp(max=prob.shape[1] - 1)
        return order.indices.gather(1, place).squeeze(1)

    def _candidates(self, hidden: Tensor, operation: Tensor, lines: Lines) -> _Candidates:
        commands, letters, number, end = self.tables.allowed(lines)
        if not self.settings.grammar:
            commands, letters = torch.ones_like(commands), self.tables.known.expand_as(letters)
            number, end = torch.ones_like(number), torch.ones_like(end)
        if self.layout == "flat":
            return self._entries(hidden[:, 0], lines, commands, letters, number, end)
        return self._parts(hidden, operation, lines, torch.cat([end[:, None], commands, letters], 1), number)

    def _entries(
        self, hidden: Tensor, lines: Lines, commands: Tensor, letters: Tensor, number: Tensor, end: Tensor
    ) -> _Candidates:
        """Candidates of the flat head: all entries of the vocabulary."""
        flat, fields = self.decoder.heads.flat, self.tables.fields
        assert flat is not None
        kind, command, param = fields[:, 0], fields[:, 1].clamp(min=0), fields[:, 2].clamp(min=0)
        fits = (kind == COMMAND) & commands[:, command]
        fits |= (kind == NUMBER) & number[:, None]
        if self.settings.grammar:  # a number stands behind its letter, and a letter needs one to stand behind it
            fits &= (kind != NUMBER) | (fields[:, 2] == lines["open"][:, None])
            letters = letters & self.tables.numbered
        else:
            fits |= self.tables.other
        fits |= (kind == LETTER) & letters[:, param]
        fits |= (kind == SPECIAL) & (end[:, None] | ~fits.any(1, keepdim=True))
        log_prob = flat(hidden).float().log_softmax(-1).masked_fill(~fits, -torch.inf)
        rows = len(log_prob)
        entries = torch.arange(len(fields), device=fields.device)
        return _Candidates(log_prob, log_prob, entries.expand(rows, -1), fields.expand(rows, -1, -1))

    def _parts(self, hidden: Tensor, operation: Tensor, lines: Lines, fits: Tensor, number: Tensor) -> _Candidates:
        """Candidates of the heads of the fields: the end, each command, each letter, and numbers."""
        heads, sizes = self.decoder.heads, [1, len(self.tables.possible), len(self.tables.known)]
        assert heads.kind is not None and heads.command is not None and heads.param is not None
        kind, command, param = (
            layer(hidden[:, 0]).float().log_softmax(-1) for layer in (heads.kind, heads.command, heads.param)
        )
        letter = torch.where(lines["open"] >= 0, lines["open"], param.argmax(1))
        said, numbers = self._numbers(hidden, operation, letter)
        fits = torch.cat([fits, number[:, None].expand(-1, said.shape[1])], 1)
        fits[:, 0] |= ~fits.any(1)
        within = [torch.zeros_like(kind[:, :1]), command, param]
        log_prob = torch.cat([kind[:, i, None] + part for i, part in enumerate(within)] + [kind[:, 3, None] + said], 1)
        if self.settings.method == "greedy":  # the type first, then the best of that type
            split = torch.split(fits[:, : sum(sizes)], sizes, 1)
            within = [part.masked_fill(~ok, -torch.inf) for part, ok in zip(within, split, strict=True)]
            within = [part - part.amax(1, keepdim=True).nan_to_num(neginf=0.0) for part in within]
        choice = torch.cat([kind[:, i, None] + part for i, part in enumerate(within)], 1)
        choice = torch.cat([choice, kind[:, 3, None].expand_as(said)], 1).masked_fill(~fits, -torch.inf)
        fields = torch.cat([self.fixed.expand(len(kind), -1, -1), numbers], 1)
        return _Candidates(log_prob.masked_fill(~fits, -torch.inf), choice, self.tables.ids(fields), fields)

    def _numbers(self, hidden: Tensor, operation: Tensor, letter: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (B, N) and fields (B, N, F) of a letter's best numbers, or of a drawn one."""
        number, count = self.decoder.heads.number, self.width
        assert number is not None
        draw = self.settings.method == "sample"
        read = number.read(hidden, operation, letter[:, None])
        told = number.sign(read[:, 0]).float().log_softmax(-1)
        if self.settings.grammar:
            forbidden = self.tables.unsigned[letter][:, None] & (torch.arange(3, device=told.device) == MINUS)
            told = told.masked_fill(forbidden, -torch.inf)
        total, sign = told.topk(min(count, 3), 1)
        if draw:
            sign = self._drawn(told)[:, None]
            total = told.gather(1, sign)
        zero = torch.full_like(told[:, :1, None].expand(-1, 1, 10), -torch.inf)
        zero[..., 0] = 0.0
        before, digits = number.after(-1, sign, None), sign[..., None]
        for i in range(len(number.digits)):
            logits = number.place(i, read.expand(-1, sign.shape[1], -1), before).float().log_softmax(-1)
            logits = torch.where((sign == ZERO)[..., None], zero, logits)
            if draw:
                chosen, parent = self._drawn(logits[:, 0])[:, None], torch.zeros_like(sign)
                total = total + logits[:, 0].gather(1, chosen)
            else:
                wider = (total[..., None] + logits).flatten(1)
                total, place = wider.topk(min(count, wider.shape[1]), 1)
                chosen, parent = place % 10, place // 10
            sign, digits = sign.gather(1, parent), _rows(digits, parent)
            digits = torch.cat([digits, chosen[..., None]], -1)
            before = number.after(i, chosen, None if before is None else _rows(before, parent))
        fields = torch.full((*sign.shape, 3), NUMBER, device=sign.device)
        fields[..., 1], fields[..., 2] = -1, letter[:, None]
        return total, self.tables.tidy(torch.cat([fields, digits], -1))


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Pick from (B, N, D) the rows (B, M): (B, M, D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


@dataclass(frozen=True)
class Greedy:
    """The next token of each line, as :class:`Writer` chooses it: what an exported step does.

    Args:
        writer: Of the method greedy.
    """

    writer: Writer

    def __call__(
        self, context: State, token: Tensor, fields: Tensor, lines: Lines, cache: State, place: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Lines, State]:
        """Read the last token (B,) and its fields (B, F), which stand at a place () of the line.

        Returns:
            The next token (B,), its fields (B, F) and log-probability (B,), the lines and the cache with it.
        """
        writer = self.writer
        hidden, cache = writer.decoder.hidden(context, token[:, None], fields[:, None], cache, place)
        found = writer._candidates(hidden, context["operation"], lines)
        best = found.choice.argmax(1, keepdim=True)
        chosen = found.fields.gather(1, best[..., None].expand(-1, -1, found.fields.shape[2]))[:, 0]
        token, log_prob = found.tokens.gather(1, best)[:, 0], found.log_prob.gather(1, best)[:, 0]
        return token, chosen, log_prob, writer.tables.advance(lines, chosen), cache
