// Command tidemill trains models on event streams and serves only the versions that proved
// themselves.
//
//	tidemill demo                    see it work, in one process
//	tidemill start                   a node
//	tidemill produce TOPIC FILE…     rows into the stream
//	tidemill submit JOB.yaml         a model to be trained from them
//	tidemill explain MODEL           why a version is live
//
// Each subcommand is one file: its help, its flags, and one call of the package that does the
// work. run is the whole program as a function of its arguments and streams.
//
// Its one law: exit code 0 means done, 1 that it failed and may succeed when tried again or
// elsewhere, 2 that what was given (flags, a spec, rows) is wrong and nothing was changed by
// it. With --json the standard output carries JSON only: one object, or one per line.
package main
