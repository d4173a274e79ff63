//go:build unix

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/intercept"
)

func interceptCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "intercept", GroupID: "run", Args: noArgs, Short: "Send a network namespace's TCP through a sidecar",
		Long: `Installs rules that send outbound and inbound TCP, IPv4 and IPv6, of a network namespace or of this whole host to a sidecar's listeners. Installing again replaces what was
installed. --dry-run prints the rules and changes nothing; --show reads them from the kernel; --remove removes them, and nothing else.`,
	}
	var (
		cfg                                                       intercept.Config
		backend, mode                                             string
		uids, ports, exUIDs, exGIDs, exOut, exIn, cidrOut, cidrIn []string
		dryRun, show, remove, takeSSH                             bool
		admin                                                     uint16
	)
	f := c.Flags()
	f.StringVar(&cfg.Netns, "netns", "", "path of a network namespace; empty: the one of this process")
	f.StringVar(&backend, "backend", string(intercept.Auto), "auto, nftables or iptables; auto takes iptables where the kernel has no nftables")
	f.Uint16Var(&cfg.OutboundPort, "outbound-port", intercept.DefaultOutboundPort, "port on which the sidecar takes what goes out; 0 leaves that alone")
	f.Uint16Var(&cfg.InboundPort, "inbound-port", intercept.DefaultInboundPort, "port on which the sidecar takes what comes in; 0 leaves that alone")
	f.StringVar(&mode, "inbound-mode", string(intercept.Redirect), "redirect or tproxy")
	f.Uint32Var(&cfg.SidecarUID, "sidecar-uid", intercept.DefaultSidecarUID, "user id of the sidecar, whose traffic is never taken")
	f.StringSliceVar(&uids, "outbound-uids", nil, "take only what these user ids send")
	f.StringSliceVar(&ports, "inbound-ports", nil, "take only what comes to these ports")
	f.StringSliceVar(&exUIDs, "exclude-uids", nil, "leave alone what these user ids send")
	f.StringSliceVar(&exGIDs, "exclude-gids", nil, "leave alone what these group ids send")
	f.StringSliceVar(&exOut, "exclude-outbound-ports", nil, "leave alone what goes to these ports")
	f.StringSliceVar(&exIn, "exclude-inbound-ports", nil, "leave alone what comes to these ports, besides 22 and --admin-port")
	f.BoolVar(&takeSSH, "take-ssh", false, "take what comes to port 22, too, which is left alone otherwise, lest you lock yourself out")
	f.Uint16Var(&admin, "admin-port", intercept.DefaultAdminPort, "port of the sidecar's admin page, where probes come; 0: it is taken like others")
	f.StringSliceVar(&cidrOut, "exclude-outbound-cidrs", nil, "leave alone what goes to these addresses")
	f.StringSliceVar(&cidrIn, "exclude-inbound-cidrs", nil, "leave alone what comes from these addresses")
	f.BoolVar(&dryRun, "dry-run", false, "print the rules as nft reads them, and change nothing")
	f.BoolVar(&show, "show", false, "print what is installed")
	f.BoolVar(&remove, "remove", false, "remove what is installed")
	parse := func() error {
		if !takeSSH {
			exIn = append(exIn, "22")
		}
		if admin != 0 {
			exIn = append(exIn, strconv.Itoa(int(admin)))
		}
		cfg.Backend, cfg.InboundMode = intercept.Backend(backend), intercept.Mode(mode)
		ranges := func(flag string, words []string, read func([]string) ([]intercept.Range, error), to *[]intercept.Range) error {
			var err error
			if *to, err = read(words); err != nil {
				return fmt.Errorf("--%s: %w", flag, err)
			}
			return nil
		}
		prefixes := func(flag string, words []string, to *[]netip.Prefix) error {
			var err error
			if *to, err = intercept.ParseCIDRs(words); err != nil {
				return fmt.Errorf("--%s: %w", flag, err)
			}
			return nil
		}
		return errors.Join(
			ranges("outbound-uids", uids, intercept.ParseIDs, &cfg.OutboundUIDs),
			ranges("inbound-ports", ports, intercept.ParsePorts, &cfg.InboundPorts),
			ranges("exclude-uids", exUIDs, intercept.ParseIDs, &cfg.ExcludeUIDs),
			ranges("exclude-gids", exGIDs, intercept.ParseIDs, &cfg.ExcludeGIDs),
			ranges("exclude-outbound-ports", exOut, intercept.ParsePorts, &cfg.ExcludeOutboundPorts),
			ranges("exclude-inbound-ports", exIn, intercept.ParsePorts, &cfg.ExcludeInboundPorts),
			prefixes("exclude-outbound-cidrs", cidrOut, &cfg.ExcludeOutboundCIDRs),
			prefixes("exclude-inbound-cidrs", cidrIn, &cfg.ExcludeInboundCIDRs),
			cfg.Check(),
		)
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		out := c.OutOrStdout()
		switch {
		case dryRun && show, show && remove, remove && dryRun:
			return usageError{errors.New("--dry-run, --show and --remove: give one of them")}
		case show:
			there, err := intercept.Show(cfg.Netns)
			if err == nil && there.Text == "" {
				there.Text = "nothing is installed\n"
			}
			if err == nil {
				_, err = fmt.Fprint(out, there.Text)
			}
			return err
		case remove:
			return intercept.Remove(cfg.Netns)
		}
		if err := parse(); err != nil {
			return usageError{err}
		}
		if dryRun {
			_, err := fmt.Fprint(out, cfg.Text())
			return err
		}
		used, err := intercept.Install(cfg)
		if err == nil {
			_, err = fmt.Fprintf(out, "installed with %s; see it with --show, undo it with --remove\n", used)
		}
		return err
	}
	return c
}
