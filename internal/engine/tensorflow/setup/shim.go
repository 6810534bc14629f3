package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// entry is the machine code of one function of the shim: a jump through its slot.
func entry(i int) string {
	if runtime.GOARCH == "arm64" {
		return fmt.Sprintf(`adrp x16, tm_tensorflow_slots+%d\nldr x16, [x16, :lo12:tm_tensorflow_slots+%d]\nbr x16\n`, 8*i, 8*i)
	}
	return fmt.Sprintf(`jmp *tm_tensorflow_slots+%d(%%rip)\n`, 8*i)
}

// shimSource is the shim in C, for a library in dir by default: all functions of symbols without
// the library itself, which is opened when it is asked for. So a program that has the engine
// starts, and says what is wrong, where the library is missing.
func shimSource(dir string) string {
	var b strings.Builder
	n := len(symbols)
	fmt.Fprintf(&b, "#include <stddef.h>\n#define TM_COUNT %d\n#define TM_DIR %s\n", n, strconv.Quote(dir))
	b.WriteString("static void absent(void);\n")
	fmt.Fprintf(&b, "__attribute__((visibility(\"hidden\"))) void *tm_tensorflow_slots[TM_COUNT] = {[0 ... %d] = (void *)absent};\n", n-1)
	b.WriteString("static const char *const names[TM_COUNT] = {\n")
	for _, s := range symbols {
		fmt.Fprintf(&b, "\t%q,\n", s)
	}
	b.WriteString("};\n")
	for i, s := range symbols {
		fmt.Fprintf(&b, "__asm__(\".text\\n.p2align 4\\n.globl %s\\n.type %s, %%function\\n%s:\\n%s\");\n", s, s, s, entry(i))
	}
	b.WriteString(gone)
	b.WriteString(loader)
	return b.String()
}

// buildShim writes libtensorflow.a to dir, for the library in lib, and returns what the library
// says its version is.
func (s *setup) buildShim(dir, lib string) (version string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	made, err := os.ReadFile(file("shim.c"))
	if err == nil && string(made) == shimSource(lib) {
		if out, err := s.command(file("check"), lib); err == nil {
			return strings.TrimSpace(out), nil
		}
	}
	for name, text := range map[string]string{"shim.c": shimSource(lib), "check.c": "#include <stddef.h>\n" + checker} {
		if err := os.WriteFile(file(name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	_ = os.Remove(file("libtensorflow.a"))
	for _, args := range [][]string{
		{cc, "-O2", "-fPIC", "-c", "-o", file("shim.o"), file("shim.c")},
		{"ar", "rcs", file("libtensorflow.a"), file("shim.o")},
		{cc, "-O2", "-o", file("check"), file("check.c"), "-L" + dir, "-ltensorflow", "-ldl"},
	} {
		if _, err := s.command(args[0], args[1:]...); err != nil {
			return "", fmt.Errorf("build the shim: %w", err)
		}
	}
	out, err := s.command(file("check"), lib)
	if err != nil {
		return "", fmt.Errorf("the library in %s does not load: %w (give the folder of another with LIBTENSORFLOW, or leave that out)", lib, err)
	}
	return strings.TrimSpace(out), nil
}
