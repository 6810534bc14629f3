// Package trainer leads jobs: it decides who owns what, which batches make up each round, when
// a cut is taken, and which version serves.
//
// Trainers elect one leader by lease. The leader runs every job: a Core (core.go) decides, a
// run (run.go) carries out its effects, and a validator (validate.go) turns committed
// snapshots into versions, scores them on rows that they have not seen, asks trainer/gate, and
// appends what it decides to the model's champion records. A standby needs nothing from its
// predecessor but what is in the records and the object store.
package trainer
