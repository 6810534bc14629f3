package tidemill

import "time"

// Decisions on a candidate.
const (
	Published  = "published"
	Held       = "held"       // evidence is missing; Reason says which
	Rejected   = "rejected"   // evidence speaks against it; Reason says which
	Superseded = "superseded" // a newer candidate was published first
)

// Version is an immutable, numbered artefact of a model: what a candidate is from the moment
// it is offered. It is stored beside its files and never changes.
type Version struct {
	Model    string `json:"model"`
	Number   int64  `json:"version"`
	Job      string `json:"job"`
	Lineage  string `json:"lineage"`
	Snapshot int64  `json:"snapshot"` // number of the snapshot it was made from
	Parent   int64  `json:"parent,omitempty"`
	Cut      Cut    `json:"cut"` // by the job's partitions
	// Origins says which log each of the job's partitions read, as Assignment.Origins does.
	Origins  []Origin `json:"origins,omitempty"`
	SpecHash string   `json:"spec_hash"`
	// Watermark: the model has seen every event up to this time (Unix milliseconds; 0 when
	// unknown).
	Watermark int64     `json:"watermark_ms,omitempty"`
	Examples  int64     `json:"examples"`
	Created   time.Time `json:"created"`
	Digest    string    `json:"digest"` // of the snapshot, PROTOCOL's 128-bit sum
	Profile   string    `json:"profile"`
}

// Decision is the gate's word on one version, with its evidence.
type Decision struct {
	Model    string    `json:"model"`
	Version  int64     `json:"version"`
	Decision string    `json:"decision"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"` // "gate", or who promoted or rolled back by hand
	At       time.Time `json:"at"`
	Evidence []Check   `json:"evidence"`
}

// Check is one gate's finding.
type Check struct {
	Name   string             `json:"name"`
	Status string             `json:"status"` // passed, failed, missing or skipped
	Detail string             `json:"detail"`
	Values map[string]float64 `json:"values,omitempty"`
}

// Champion is one record of the contiguous, create-only sequence that says what serves.
type Champion struct {
	Model   string    `json:"model"`
	Seq     int64     `json:"seq"`     // 1, 2, …
	Version int64     `json:"version"` // 0 in a fence record
	Fence   int64     `json:"fence,omitempty"`
	Anchor  int64     `json:"anchor,omitempty"` // the version that creep is measured against
	Kind    string    `json:"kind"`             // gate, promote, rollback or fence
	By      string    `json:"by"`
	Why     string    `json:"why"`
	At      time.Time `json:"at"`
}

// Model life-cycle events, published as hints; the object store is the truth.
const (
	EventGenerated  = "GENERATED"
	EventValidated  = "VALIDATED"
	EventDeployed   = "DEPLOYED"
	EventRetired    = "RETIRED"
	EventHeld       = "HELD"
	EventRejected   = "REJECTED"
	EventSuperseded = "SUPERSEDED"
	EventRolledBack = "ROLLED_BACK"
)
