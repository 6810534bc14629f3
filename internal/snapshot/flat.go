package snapshot

import (
	"encoding/binary"
	"fmt"
)

// The Arrow library allocates as much as the metadata of a file claims to need, and a claim
// of more than the machine has ends the process. So the claims are compared with the size of
// the metadata first. The metadata is a flatbuffer (Arrow's File.fbs, Schema.fbs, Message.fbs),
// of which only the vectors that the library allocates for are looked at: fields and key-value
// pairs. Anything out of place panics, like the library does; callers recover (notPanic).

// flat is a flatbuffer; its tables are known by their position.
type flat []byte

func (b flat) u32(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }

// root returns the position of the outermost table.
func (b flat) root() int { return b.u32(0) }

// field returns the position of a table's field by its number, 0 when it is absent.
func (b flat) field(table, n int) int {
	vtable := table - int(int32(b.u32(table)))
	slot := 4 + 2*n
	if size := int(binary.LittleEndian.Uint16(b[vtable:])); slot+2 > size {
		return 0
	}
	if offset := int(binary.LittleEndian.Uint16(b[vtable+slot:])); offset != 0 {
		return table + offset
	}
	return 0
}

// follow returns what the reference at a field points to.
func (b flat) follow(at int) int { return at + b.u32(at) }

// vector returns the position of the first element of a table's vector field and how many
// elements of size bytes there are: 0 when it is absent.
func (b flat) vector(table, n, size int) (first, count int) {
	at := b.field(table, n)
	if at == 0 {
		return 0, 0
	}
	first = b.follow(at) + 4
	count = b.u32(first - 4)
	if count > (len(b)-first)/size {
		panic(fmt.Sprintf("metadata of %d bytes claims a vector of %d", len(b), count))
	}
	return first, count
}

// Field numbers in Arrow's tables.
const (
	footerSchema, footerBatches      = 1, 3
	schemaFields, schemaKeyValues    = 1, 2
	fieldChildren, fieldKeyValues    = 5, 6
	messageKeyValues                 = 4
	maxFields, maxBatches, blockSize = 256, 1 << 24, 24
)

// checkFooter checks the footer of an Arrow file and returns where its record batches begin.
func checkFooter(data []byte) (batches []int64) {
	end := len(data) - 10 // length of the footer, then "ARROW1"
	size := flat(data).u32(end)
	footer := flat(data[end-size : end])
	root := footer.root()

	schema := footer.follow(footer.field(root, footerSchema))
	footer.vector(schema, schemaKeyValues, 4)
	left := maxFields
	footer.checkFields(schema, schemaFields, &left)

	first, count := footer.vector(root, footerBatches, blockSize)
	if count > maxBatches {
		panic("too many record batches")
	}
	for i := range count {
		batches = append(batches, int64(binary.LittleEndian.Uint64(footer[first+i*blockSize:])))
	}
	return batches
}

// checkFields checks the fields in a vector of a table, and their children. left bounds their
// number, which keeps a buffer that refers to itself from being walked for ever.
func (b flat) checkFields(table, n int, left *int) {
	first, count := b.vector(table, n, 4)
	for i := range count {
		if *left--; *left < 0 {
			panic("too many fields")
		}
		field := b.follow(first + 4*i)
		b.vector(field, fieldKeyValues, 4)
		b.checkFields(field, fieldChildren, left)
	}
}

// checkMessage checks the metadata of the message that begins at a position of a file.
func checkMessage(data []byte, at int64) {
	message := flat(data[at:])
	if message.u32(0) == 0xffffffff { // the marker that newer writers put first
		message = message[4:]
	}
	size := message.u32(0)
	message = message[4 : 4+size]
	message.vector(message.root(), messageKeyValues, 4)
}
