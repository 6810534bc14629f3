// Package workload makes the streams that benchmarks train on. A generator is a function of
// its seed and a row's number: the same rows come out on every machine, in any order and cut
// in any way, so that peers can be given the same ones.
//
// Each generator draws labels from probabilities it knows, and can say which AUC a model that
// knew them too would reach: no score means anything without the best possible one beside it.
package workload
