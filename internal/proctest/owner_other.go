//go:build !linux

package proctest

import "net"

const canFindOwners = false

func ownerOf(*net.TCPConn, map[string]int) string { return "" }
