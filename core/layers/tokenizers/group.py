"""One token for each place and group of bands."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..embed import PatchEmbed
from .bands import check_bands
from .match import check_known, match_bands
from .patches import blanked, check_size, pitch_of
from .tokens import Tokens


class GroupEmbed(nn.Module):
    """Patches of each group of bands times a projection of its own: one spectral token for each group.

    What an image lacks of a group counts as 0; a group of which it has nothing is marked as not there.

    Source: Cong et al. 2022 (SatMAE), section 3.3.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        groups: for each group, which bands it joins: nm, or codes of ``RADAR``. A band may be in several groups.
        tolerance: nm by which a sensor's band may differ from one of ``groups`` and still be that one.
        others: what to do with bands of an image that are in no group.

    Raises:
        ValueError: a group without bands, or with one twice, or with an unknown one.
    """

    def __init__(
        self,
        dim: int,
        *,
        patch: int,
        groups: Sequence[Sequence[float]],
        tolerance: float = 20.0,
        others: Literal["error", "drop"] = "error",
    ) -> None:
        super().__init__()
        if not groups or not all(groups):
            raise ValueError(f"GroupEmbed: groups {[list(g) for g in groups]}, expected at least one, each with bands")
        if others not in ("error", "drop"):
            raise ValueError(f"GroupEmbed: others is {others!r}, expected 'error' or 'drop'")
        for group in groups:
            check_known("GroupEmbed", group)
        self.dim, self.patch, self.tolerance, self.others = dim, patch, tolerance, others
        self.groups = tuple(tuple(float(w) for w in group) for group in groups)
        self.known = tuple(sorted({w for group in self.groups for w in group}))
        self.embeds = nn.ModuleList(PatchEmbed(len(group), dim, patch=(patch, patch)) for group in self.groups)

    def centres(self) -> Tensor | None:
        """Return the mean wavelength of each group, (groups,) nm; None if one joins radar with something else."""
        if any(min(group) < 0 and len(set(group)) > 1 for group in self.groups):
            return None
        return torch.tensor([sum(group) / len(group) for group in self.groups])

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        check_size("GroupEmbed", x, self.patch)
        where = match_bands("GroupEmbed", wavelengths, self.known, tolerance=self.tolerance, drop=self.others == "drop")
        x = blanked(x, band_mask)
        first = {w: index for index, group in reversed(list(enumerate(self.groups))) for w in group}
        owner = torch.full((len(wavelengths),), -1, device=x.device)
        for known, band in where.items():
            owner[band] = first[self.known[known]]
        missing = x.shape[1]  # a band of zeros behind the others
        if len(where) < len(self.known):
            x = F.pad(x, (0, 0, 0, 0, 0, 1))
            band_mask = x.new_ones(x.shape[0], missing, dtype=torch.bool) if band_mask is None else band_mask
            band_mask = F.pad(band_mask, (0, 1))
        tokens, present = [], []
        for group, embed in zip(self.groups, self.embeds, strict=True):
            members = torch.tensor([where.get(self.known.index(w), missing) for w in group], device=x.device)
            tokens.append(embed(x.index_select(1, members)))
            if band_mask is not None:
                present.append(band_mask.index_select(1, members).any(1))
        centres = self.centres()
        return Tokens(
            torch.stack(tokens, dim=1),
            None if centres is None else centres.to(x.device),
            pitch_of(gsd, self.patch, x),
            torch.stack(present, dim=1) if present else None,
            owner,
        )
