// Package process runs programs as child processes: [Start] one, wait until it says that it is
// [Process.Ready], read its metrics with [Scrape], and end it as a crash does ([Process.Kill]) or as an
// operator does ([Process.Stop]).
//
// Its one law: no child outlives this process, however that ends (on Linux the kernel sees to it).
package process
