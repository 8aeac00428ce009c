// A candidate by client-go's own leader election, which says when it leads. SIGTERM ends it, and gives the lease up.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// say prints an event with the moment of it, in milliseconds of the clock that every process of the host shares.
func say(event string) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	fmt.Printf("%s %d\n", event, now.Nano()/int64(time.Millisecond))
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "")
	namespace := flag.String("namespace", "", "")
	lease := flag.String("lease", "", "")
	identity := flag.String("identity", "", "")
	duration := flag.Duration("lease-duration", 3*time.Second, "")
	deadline := flag.Duration("renew-deadline", 2*time.Second, "")
	retry := flag.Duration("retry-period", 500*time.Millisecond, "")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		panic(err)
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: *namespace, Name: *lease},
		Client:     kubernetes.NewForConfigOrDie(config).CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	say("candidate")
	for ctx.Err() == nil {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock:            lock,
			LeaseDuration:   *duration,
			RenewDeadline:   *deadline,
			RetryPeriod:     *retry,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				// What it starts is to end with this context, which is when client-go has lost or given up the lease.
				OnStartedLeading: func(work context.Context) {
					say("leads")
					<-work.Done()
					say("ended")
				},
				OnStoppedLeading: func() {},
			},
		})
	}
}
