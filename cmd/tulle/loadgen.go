//go:build unix

package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/loadtest"
	"github.com/tulle-mesh/tulle/loadtest/shop"
)

func loadgenCommand() *cobra.Command {
	var (
		wave   loadtest.Wave
		target string
		hello  bool
		level  string
	)
	c := &cobra.Command{
		Use: "loadgen", Short: "Send the demo shop its customers", Hidden: true, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			customers := shop.NewCustomers(target)
			defer customers.Close()
			r := &loadtest.Runner{Wave: wave, Do: customers.Visit}
			if hello {
				r.Do = customers.Hello
			}
			ctx := c.Context()
			told := make(chan struct{})
			go func() {
				defer close(told)
				tick := time.NewTicker(10 * time.Second)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
						log.Info("load", "totals", r.Totals())
					case <-ctx.Done():
						return
					}
				}
			}()
			err = r.Run(ctx, 5*time.Second)
			if ctx.Err() != nil {
				<-told
			}
			log.Info("load ended", "totals", r.Totals())
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&target, "target", "", "address of web")
	f.Float64Var(&wave.Base, "rate", 90, "requests per second on average")
	f.Float64Var(&wave.Swing, "swing", 0.25, "how far the wave swings around the rate, 0 to 0.95")
	f.DurationVar(&wave.Period, "period", 3*time.Minute, "period of the wave")
	f.BoolVar(&hello, "hello", false, "only say hello: one small request, no other service involved")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}
