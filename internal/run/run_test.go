package run_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/run"
)

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) { j.mu.Lock(); j.lines = append(j.lines, s); j.mu.Unlock() }

func (j *journal) actor(name string, err error) run.Actor {
	return run.Actor{Name: name, Run: func(ctx context.Context, ready func()) error {
		j.add("start " + name)
		ready()
		if err != nil {
			time.Sleep(time.Second) // virtual
			return err
		}
		<-ctx.Done()
		j.add("stop " + name)
		return nil
	}}
}

func TestStopsInReverseAndReturnsFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		boom := errors.New("boom")
		err := run.All(t.Context(), j.actor("a", nil), j.actor("b", nil), j.actor("c", boom))
		if !errors.Is(err, boom) || err.Error() != "c: boom" {
			t.Fatalf("err = %v, want c: boom", err)
		}
		want := []string{"start a", "start b", "start c", "stop b", "stop a"}
		if !reflect.DeepEqual(j.lines, want) {
			t.Fatalf("order = %v, want %v", j.lines, want)
		}
	})
}

func TestContextEndIsSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := run.All(ctx, j.actor("a", nil), j.actor("b", nil)); err != nil {
			t.Fatal(err)
		}
		want := []string{"start a", "start b", "stop b", "stop a"}
		if !reflect.DeepEqual(j.lines, want) {
			t.Fatalf("order = %v, want %v", j.lines, want)
		}
	})
}

func TestAStuckActorDoesNotHoldTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		free := make(chan struct{})
		stuck := run.Actor{Name: "stuck", Run: func(_ context.Context, ready func()) error { ready(); <-free; return nil }}
		err := run.All(ctx, j.actor("a", nil), stuck)
		close(free)
		if !errors.Is(err, run.ErrStopTimeout) {
			t.Fatalf("err = %v, want ErrStopTimeout", err)
		}
		if got := j.lines[len(j.lines)-1]; got != "stop a" {
			t.Fatalf("last = %q, want stop a", got)
		}
	})
}

func TestAnActorMaySayHowLongItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		slow := run.Actor{Name: "slow", StopTimeout: 2 * time.Minute, Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			time.Sleep(90 * time.Second)
			return nil
		}}
		if err := run.All(ctx, slow); err != nil {
			t.Error(err)
		}
	})
}
