package faultnet

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

const canFindOwners = true

// ownerOf returns which host's process opened conn, which was accepted on this machine, or
// "" when none did or it has closed it.
func ownerOf(conn *net.TCPConn, pids map[string]int) string {
	inode := inodeOf(conn.RemoteAddr().(*net.TCPAddr), conn.LocalAddr().(*net.TCPAddr))
	if inode == "" {
		return ""
	}
	for host, pid := range pids {
		dir := filepath.Join("/proc", fmt.Sprint(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == "socket:["+inode+"]" {
				return host
			}
		}
	}
	return ""
}

// inodeOf finds a socket in the kernel's table of IPv4 connections.
func inodeOf(local, remote *net.TCPAddr) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	ends := [2]string{kernelAddr(local), kernelAddr(remote)}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
		if f := strings.Fields(lines.Text()); len(f) > 9 && [2]string{f[1], f[2]} == ends && f[9] != "0" {
			return f[9]
		}
	}
	return ""
}

// kernelAddr writes an address as that table does: the IP's bytes as a number of this
// machine, then the port.
func kernelAddr(a *net.TCPAddr) string {
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(a.IP.To4()), a.Port)
}
