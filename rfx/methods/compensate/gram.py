"""The one statistic behind every compensation: streamed Gram matrices of a site's features and of
what they miss.

With features Z [T, n] (the kept channels that the output projection reads), the student's residual
stream S and the teacher's stream X' [T, d], both before the LayerNorm, the error that a
compensation can repair is E = X' - S. Kept are C = [Z, 1]^T [Z, 1] and [Z, 1]^T E, which give D =
[Z, 1]^T R for the projection's target R = X' - S + (Z W^T + b) as D = [Z, 1]^T E + C [W, b]^T.
Summing E and not R spares the digits that R shares with the projection itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROWS = 2048  # rows multiplied at once: float32 products of so many, summed in float64
_BLOCK = 512  # columns; only blocks on and above the diagonal of Z^T Z are computed


class Gram:
    """Sums over rows (tokens): products in float32 over some thousand rows, sums of them in
    float64.

    Args:
        features: n, channels of Z. hidden: d, channels of the residual stream. device: where the
            rows come from.
    """

    def __init__(self, features: int, hidden: int, device: torch.device | str = "cpu"):
        import torch

        f64: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self._rows = 0.0
        self._zz = torch.zeros(features, features, **f64)  # upper blocks of Z^T Z
        self._z = torch.zeros(features, **f64)  # Z^T 1
        self._ze = torch.zeros(features, hidden, **f64)  # Z^T E
        self._e = torch.zeros(hidden, **f64)  # 1^T E
        self._ee = torch.zeros((), **f64)  # ||E||^2
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._count = 0

    def add(
        self, z: torch.Tensor, error: torch.Tensor, weights: torch.Tensor | None = None
    ) -> None:
        """Rows z [t, n] and error [t, d], padding removed; with `weights` [t] every sum is a
        weighted one."""
        if not len(z):
            return
        if weights is not None:
            root = weights.sqrt()[:, None]
            self._accumulate(z.float() * root, error.float() * root, root)
            return
        self._waiting.append((z, error))
        self._count += len(z)
        if self._count >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        import torch

        if not self._waiting:
            return
        z = (
            torch.cat([a for a, _ in self._waiting])
            if len(self._waiting) > 1
            else self._waiting[0][0]
        )
        e = (
            torch.cat([b for _, b in self._waiting])
            if len(self._waiting) > 1
            else self._waiting[0][1]
        )
        self._waiting, self._count = [], 0
        if z.dtype in (torch.float16, torch.bfloat16):
            z, e = z.float(), e.float()
        for start in range(0, z.shape[0], 2 * _ROWS):
            self._accumulate(z[start : start + 2 * _ROWS], e[start : start + 2 * _ROWS], None)

    def _accumulate(self, z: torch.Tensor, e: torch.Tensor, root: torch.Tensor | None) -> None:
        """Rows z [t, n] and e [t, d], both times `root` [t, 1], the root of their weights."""
        import torch

        for i in range(0, z.shape[1], _BLOCK):
            self._zz[i : i + _BLOCK, i:] += z[:, i : i + _BLOCK].T @ z[:, i:]
        self._ze += z.T @ e
        self._ee += e.double().square().sum()
        self._z += (z if root is None else z * root).sum(0, dtype=torch.float64)
        self._e += (e if root is None else e * root).sum(0, dtype=torch.float64)
        self._rows += len(z) if root is None else float(root.double().square().sum())

    def absorb(self, other: Gram) -> None:
        """Add the sums of `other`, which has the same features."""
        self._flush()
        other._flush()
        for name in ("_zz", "_z", "_ze", "_e", "_ee", "_rows"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def sums(self) -> tuple[torch.Tensor, ...]:
        """All that was summed, as it is kept."""
        self._flush()
        return self._zz, self._z, self._ze, self._e, self._ee

    @property
    def rows(self) -> float:
        """Rows so far; the sum of their weights where they have some."""
        self._flush()
        return self._rows

    @property
    def zz(self) -> torch.Tensor:
        """Z^T Z, float64 [n, n]."""
        self._flush()
        upper = self._zz.triu()
        return upper + upper.triu(1).T

    @property
    def centred(self) -> torch.Tensor:
        """Z^T Z around the mean row, which a free bias takes care of, float64 [n, n]."""
        return self.zz - self.z_sum[:, None] * self.z_sum[None] / max(float(self.rows), 1e-300)

    @property
    def z_sum(self) -> torch.Tensor:
        """Z^T 1, float64 [n]."""
        self._flush()
        return self._z

    @property
    def ze(self) -> torch.Tensor:
        """Z^T E, float64 [n, d]."""
        self._flush()
        return self._ze

    @property
    def e_sum(self) -> torch.Tensor:
        """1^T E, float64 [d]."""
        self._flush()
        return self._e

    @property
    def ee(self) -> float:
        """||E||^2, the squared error without any compensation."""
        self._flush()
        return float(self._ee)


class ScaleSystem:
    """The normal equations of one real scale a unit (Kwon et al. 2022, section 4.3, equation 12).

    Column u of A is vec(z_u w_u^T), the unit's own output. With m = 1 + r on the kept units the
    error is
    || A r - vec(E) ||^2 = r^T G r - 2 r^T g + ||E||^2.

    `normal` G = A^T A [K, K], the unit blocks of (Z^T Z) o (W^T W); `right` g = A^T vec(E) = A^T b
    - A^T A 1 [K]. `ones` are the reference's further column, one constant for all tokens and
    channels: its products with A [K], with itself, and with E.
    """

    def __init__(self, gram: Gram, weight: torch.Tensor, width: int):
        weight = weight.double()  # [d, n], the kept columns of the output projection
        units = weight.shape[1] // width
        products = (weight.T @ weight).mul_(gram.zz)  # [n, n]
        self.normal = products.view(units, width, units, width).sum((1, 3))
        self.right = (weight.T * gram.ze).sum(1).view(units, width).sum(1)
        self.ones = (
            (weight.sum(0) * gram.z_sum).view(units, width).sum(1),
            float(gram.rows * weight.shape[0]),
            float(gram.e_sum.sum()),
        )
        self.squared_error = gram.ee
        self.rows, self.hidden = gram.rows, weight.shape[0]

    def error(self, r: torch.Tensor | None = None) -> float:
        """Mean squared error a token and channel with scales 1 + `r` [K] (None: all 1)."""
        squared = self.squared_error
        if r is not None:
            squared += float(r @ (self.normal @ r)) - 2.0 * float(r @ self.right)
        return max(0.0, squared) / max(1, self.rows * self.hidden)
