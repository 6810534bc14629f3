package ps

import (
	"math"
	"unsafe"

	"github.com/tidemill/tidemill/internal/quant"
)

// idFloats is how many floats the id of a row takes in its cell.
const idFloats = 2

// Chunks of cells are this large, unless a single cell is larger, and the first chunk of a small
// table is smaller.
const (
	chunkBytes = 1 << 20
	firstRows  = 32
	maxShift   = 12
)

// cells are the rows of a table by their numbers, each in a cell of fixed size:
//
//	id [2, as the bits of two floats] | weights [words] | the rest of the row [width-dim]
//
// Weights are packed by format; to everybody else a row is width floats.
//
// They lie in chunks of 1<<shift cells, without a pointer in any of them. A row keeps its number
// and, once its table is larger than a chunk, its place.
type cells struct {
	width  int // floats of a row
	dim    int // those that are weights
	format quant.Format
	words  int // floats that packed weights take
	stride int // floats of a cell
	shift  uint
	plain  []float32 // a row that is packed
	n      int       // cells that were ever used; row numbers are below it
	chunks [][]float32
}

// holes are the cells of rows that went.
type holes struct {
	dead dirty // all of them
	free []int // those that new rows may use
	// held may be used once no image is left: images read ids from cells without a lock.
	held []int
}

func newCells(width, dim int, format quant.Format) cells {
	c := cells{width: width, dim: dim, format: format, words: format.Words(dim), shift: maxShift}
	c.stride = idFloats + c.words + width - dim
	if format != quant.Float32 {
		c.plain = make([]float32, width)
	}
	for c.shift > 0 && c.stride<<(c.shift+2) > chunkBytes {
		c.shift--
	}
	return c
}

// cell returns the cell of a row.
func (c *cells) cell(row int) []float32 {
	at := (row & (1<<c.shift - 1)) * c.stride
	return c.chunks[row>>c.shift][at : at+c.stride : at+c.stride]
}

// row returns the values of a row, until the next call. They are its own memory if it is not
// packed; whoever changes them calls store.
func (c *cells) row(row int) []float32 {
	cell := c.cell(row)[idFloats:]
	if c.format == quant.Float32 {
		return cell
	}
	c.format.Unpack(c.plain[:c.dim], cell)
	copy(c.plain[c.dim:], cell[c.words:])
	return c.plain
}

// store sets the values of a row, whose weights the format can represent. They may be what row
// returned.
func (c *cells) store(row int, values []float32) {
	cell := c.cell(row)[idFloats:]
	if c.format != quant.Float32 {
		c.format.Pack(cell[:c.words], values[:c.dim])
		copy(cell[c.words:], values[c.dim:])
	} else if &cell[0] != &values[0] {
		copy(cell, values)
	}
}

// unpack copies the weights of a row to dst [dim].
func (c *cells) unpack(dst []float32, row int) {
	c.format.Unpack(dst, c.cell(row)[idFloats:])
}

// id returns the id of a row.
func (c *cells) id(row int) uint64 {
	at := (row & (1<<c.shift - 1)) * c.stride
	return idOf(c.chunks[row>>c.shift][at : at+idFloats])
}

// address returns where the cell of a row begins, for kernel.Prefetch.
func (c *cells) address(row int) unsafe.Pointer {
	return unsafe.Pointer(&c.chunks[row>>c.shift][(row&(1<<c.shift-1))*c.stride])
}

func idOf(cell []float32) uint64 {
	return uint64(math.Float32bits(cell[0])) | uint64(math.Float32bits(cell[1]))<<32
}

// extend appends a row of unknown values and returns its number.
func (c *cells) extend(id uint64) int {
	row := c.n
	c.n++
	c.reach(row)
	c.mark(row, id)
	return row
}

// mark puts an id into a cell.
func (c *cells) mark(row int, id uint64) {
	cell := c.cell(row)
	cell[0], cell[1] = math.Float32frombits(uint32(id)), math.Float32frombits(uint32(id>>32))
}

// reach makes room for the cell of row, which is the first that there is none for or has one.
func (c *cells) reach(row int) {
	switch last := len(c.chunks) - 1; {
	case row>>c.shift > last && (last >= 0 || c.shift == 0 || 1<<c.shift <= firstRows):
		c.chunks = append(c.chunks, make([]float32, c.stride<<c.shift))
	case last < 0:
		c.chunks = [][]float32{make([]float32, c.stride*firstRows)}
	case last == 0 && row*c.stride == len(c.chunks[0]):
		// Images read ids from the chunks they know: theirs stay as they are.
		larger := make([]float32, 2*len(c.chunks[0]))
		copy(larger, c.chunks[0])
		c.chunks = [][]float32{larger}
	}
}
