//go:build unix

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/controller"
)

func caCommand() *cobra.Command {
	c := &cobra.Command{Use: "ca", GroupID: "run", Short: "Trust anchors and join tokens of a controller", Args: noArgs}
	var (
		dataDir, trustDomain, namespace, account string
		ttl                                      time.Duration
	)
	need := func() error {
		if dataDir == "" {
			return usageError{errors.New("--data-dir is required: the controller's data directory")}
		}
		return nil
	}
	f := c.PersistentFlags()
	f.StringVar(&dataDir, "data-dir", "", "the controller's data directory (required)")
	f.StringVar(&trustDomain, "trust-domain", controller.DefaultTrustDomain, "SPIFFE trust domain of this mesh")
	token := &cobra.Command{
		Use: "token", Args: noArgs, Short: "Issue a join token, good for one sidecar or observer",
		Long: `Prints a join token for the identity spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT. The controller need not be restarted. The observer's
identity is namespace tulle-system, account observer.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := need(); err != nil {
				return err
			}
			if account == "" || ttl <= 0 {
				return usageError{errors.New("--service-account is required, and --ttl must be above 0")}
			}
			if _, err := controller.EnsureCA(dataDir, trustDomain); err != nil {
				return err
			}
			t, err := controller.IssueToken(dataDir, namespace, account, ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), t)
			return err
		},
	}
	token.Flags().StringVar(&namespace, "namespace", "default", "namespace of the workload")
	token.Flags().StringVar(&account, "service-account", "", "service account of the workload (required)")
	token.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token is good")
	bundle := &cobra.Command{
		Use: "bundle", Args: noArgs, Short: "Print the file with the trust anchors; hand it out with join tokens",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := need(); err != nil {
				return err
			}
			file, err := controller.EnsureCA(dataDir, trustDomain)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), file)
			return err
		},
	}
	c.AddCommand(token, bundle)
	return c
}
