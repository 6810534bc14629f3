package fileblob

import (
	"strings"
	"unicode/utf8"

	"github.com/tidemill/tidemill"
)

// checkName reports whether name can be a blob's. Anything else wraps tidemill.ErrInvalid.
func checkName(name string) error {
	bad := func(why string) error {
		return tidemill.Invalid("blob name %q %s", "use relative names of plain segments separated by '/'", clip(name), why)
	}
	if name == "" || len(name) > 1024 || !utf8.ValidString(name) {
		return bad("is empty, too long or no UTF-8")
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == ':' }) {
		return bad(`holds a control character, '\' or ':'`)
	}
	for i, segment := range strings.Split(name, "/") {
		switch {
		case segment == "":
			return bad("has an empty segment")
		case segment == "." || segment == "..":
			return bad("would leave its folder")
		case len(segment) > 255:
			return bad("has a segment of more than 255 bytes")
		case i == 0 && (strings.EqualFold(segment, formatName) || strings.EqualFold(segment, lockName) || strings.EqualFold(segment, tempName)):
			return bad("is reserved")
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
