"""Versions of a model, the decisions on them, and what serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import display


@dataclass(frozen=True)
class Check:
    """One gate's finding."""

    name: str
    status: str
    """passed, failed, missing or skipped"""
    detail: str = ""
    values: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> Check:
        return cls(o["name"], o["status"], o.get("detail", ""), o.get("values") or {})


@dataclass(frozen=True)
class Decision:
    """The gate's word, or somebody's, on one version."""

    decision: str
    """published, held, rejected or superseded"""
    reason: str
    by: str
    at: str
    """RFC 3339"""
    evidence: tuple[Check, ...] = ()

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> Decision:
        checks = tuple(Check.of(c) for c in o.get("evidence") or ())
        return cls(o["decision"], o.get("reason", ""), o.get("by", ""), o.get("at", ""), checks)


@dataclass(frozen=True)
class Champion:
    """A record of what serves, and who made it so."""

    model: str
    version: int
    seq: int
    kind: str
    """gate, promote or rollback"""
    by: str
    why: str
    at: str
    """RFC 3339"""

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> Champion:
        return cls(o["model"], o["version"], o["seq"], o["kind"], o["by"], o["why"], o["at"])


@dataclass(frozen=True)
class Version:
    """An immutable, numbered artefact of a model, with the last decision on it."""

    model: str
    number: int
    decision: str
    reason: str
    serves: bool
    examples: int
    cut: tuple[int, ...]
    job: str
    snapshot: int
    lineage: str
    parent: int
    """The version before it; 0 none."""
    spec_hash: str
    digest: str
    profile: str
    created: str
    """RFC 3339"""
    watermark_ms: int
    """It has seen every event up to this Unix time; 0 unknown."""
    by: str = ""
    evidence: tuple[Check, ...] = ()

    @classmethod
    def fields(cls, o: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": o["model"],
            "number": o["version"],
            "decision": o["decision"],
            "reason": o.get("reason", ""),
            "serves": o.get("serves", False),
            "examples": o.get("examples", 0),
            "cut": tuple(o.get("cut") or ()),
            "job": o.get("job", ""),
            "snapshot": o.get("snapshot", 0),
            "lineage": o.get("lineage", ""),
            "parent": o.get("parent", 0),
            "spec_hash": o.get("spec_hash", ""),
            "digest": o.get("digest", ""),
            "profile": o.get("profile", ""),
            "created": o.get("created", ""),
            "watermark_ms": o.get("watermark_ms", 0),
            "by": o.get("by", ""),
            "evidence": tuple(Check.of(c) for c in o.get("evidence") or ()),
        }

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> Version:
        return cls(**cls.fields(o))


@dataclass(frozen=True)
class Explanation(Version):
    """Why a version is, or is not, live."""

    decisions: tuple[Decision, ...] = ()
    """All of them, oldest first."""
    champion: Champion | None = None
    """The record that made it serve; None where none did."""

    @classmethod
    def of(cls, o: Mapping[str, Any]) -> Explanation:
        record = o.get("champion")
        return cls(
            **cls.fields(o),
            decisions=tuple(Decision.of(d) for d in o.get("decisions") or ()),
            champion=Champion.of(record) if record else None,
        )

    def _repr_html_(self) -> str:
        return display.explanation_html(self)
