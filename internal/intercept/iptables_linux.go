package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// program is "iptables-restore" or "ip6tables-save".
func (f family) program(verb string) string {
	if f == ipv6 {
		return "ip6tables-" + verb
	}
	return "iptables-" + verb
}

// iptablesThere reports whether the programs of f are installed.
func (f family) iptablesThere() bool {
	for _, verb := range []string{"save", "restore"} {
		if _, err := exec.LookPath(f.program(verb)); err != nil {
			return false
		}
	}
	return true
}

// iptablesUsed reports whether there may be chains of Tulle: whether there is one of iptablesTables, of the older variant, of which the kernel lists the names, or of the one that writes to
// nftables. Where that cannot be told, there may.
func (f family) iptablesUsed() bool {
	text, err := os.ReadFile("/proc/thread-self/net/" + f.tableNames())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return true
	}
	for _, name := range strings.Fields(string(text)) {
		if slices.Contains(iptablesTables, name) {
			return true
		}
	}
	c, err := dialNFTables()
	if err != nil {
		return !noNFTables(err)
	}
	tables, err := c.ListTablesOfFamily(f.nft())
	if err != nil {
		return !noNFTables(err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return slices.Contains(iptablesTables, t.Name) })
}

// tableNames is the file in which the kernel lists the tables of the older variant.
func (f family) tableNames() string {
	if f == ipv6 {
		return "ip6_tables_names"
	}
	return "ip_tables_names"
}

// nft is f in nftables.
func (f family) nft() nftables.TableFamily {
	if f == ipv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// compatChains are the chains of Tulle that iptables keeps in nftables.
func (f family) compatChains() (names []string, err error) {
	c, err := dialNFTables()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChainsOfTableFamily(f.nft())
	if err != nil && !noNFTables(err) {
		return nil, err
	}
	for _, ch := range chains {
		if slices.Contains(iptablesNames[ch.Table.Name], ch.Name) {
			names = append(names, ch.Name)
		}
	}
	return names, nil
}

func run(input, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// saved is the text of iptables-save, by table.
func (f family) saved() (map[string]string, error) {
	out := map[string]string{}
	for _, t := range iptablesTables {
		text, err := run("", f.program("save"), "-t", t)
		if err != nil {
			return nil, err
		}
		out[t] = text
	}
	return out, nil
}

// setIPTables exchanges the chains of Tulle for chains, in one transaction per table; with none it removes them. tryOnly has the kernel look at them and changes nothing.
func (f family) setIPTables(chains []chain, tryOnly bool) error {
	saved, err := f.saved()
	if err != nil {
		return err
	}
	text := restoreText(f, saved, chains)
	if text == "" {
		return nil
	}
	args := []string{"--noflush", "--wait=10"}
	if tryOnly {
		args = append(args, "--test")
	}
	if _, err := run(text, f.program("restore"), args...); err != nil {
		return errors.Join(err, fmt.Errorf("what it was told:\n%s", text))
	}
	return nil
}

// readIPTables is what there is of Tulle, as iptables-save prints it; "" when there is nothing.
func (f family) readIPTables() (string, error) {
	saved, err := f.saved()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, t := range iptablesTables {
		var lines []string
		for line := range strings.Lines(saved[t]) {
			if strings.Contains(line, "TULLE_") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		if len(lines) > 0 {
			fmt.Fprintf(&b, "# %s\n*%s\n%s\nCOMMIT\n", f, t, strings.Join(lines, "\n"))
		}
	}
	return b.String(), nil
}
