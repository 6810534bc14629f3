// Package carry moves what one job trained into another one whose spec differs: features added
// or removed, another optimizer, another number of shards, another stream.
//
// New decides, from the two compiled specs and nothing else, what becomes of each feature,
// table, tensor, optimizer and learned transform: it is carried, begins anew, is dropped, or
// forbids the whole with a reason. Write then reads the one job's snapshot and writes the parts
// of the other's first one.
//
// The law: a value is carried only where it means in the new job what it meant in the old one;
// and where the specs agree its bits stay, so that a job which goes on with its own spec reaches
// the digest that it would have reached without a stop.
//
// What decides and what was rejected: docs/design/0020-what-carries-over.md.
package carry
