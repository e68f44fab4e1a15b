// The order flow on net/http, pgx and amqp091-go, written for speed.
//
// An order is pending first; billing takes its money once, asked by an RPC over RabbitMQ; its status and its event are
// committed by one statement; the event is published with a confirm, then marked; then the client is answered. Letters
// are deduplicated, then acknowledged.
//
// One role a process:  ROLE=orders|billing|notifications PORT=... DSN_BASE=... AMQP_URI=... ./peer
// DSN_BASE is the URL of PostgreSQL up to the name of a database; these are go_orders and so on.
//
// It listens once all else is ready, and ends when it loses the broker: whatever has started it starts it again.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v4/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
)

var (
	background = context.Background()
	db         *pgxpool.Pool
)

func main() {
	role := os.Getenv("ROLE")
	config, err := pgxpool.ParseConfig(os.Getenv("DSN_BASE") + "go_" + role)
	must(err)
	config.MinConns, config.MaxConns = poolSize(), poolSize()
	config.MaxConnIdleTime, config.MaxConnLifetime = 24*time.Hour, 24*time.Hour
	db, err = pgxpool.ConnectConfig(background, config)
	must(err)
	_, err = db.Exec(background, schema[role])
	must(err)

	connection, err := amqp.Dial(os.Getenv("AMQP_URI"))
	must(err)
	uuid.EnableRandPool()
	serve[role](func() *amqp.Channel {
		channel, err := connection.Channel()
		must(err)
		closed := channel.NotifyClose(make(chan *amqp.Error, 1))
		go func() {
			if err := <-closed; err != nil { // nil where we close it ourselves
				log.Fatal("lost the broker: ", err)
			}
		}()
		return channel
	})
	ending, _ := signal.NotifyContext(background, syscall.SIGTERM, os.Interrupt)
	server := http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT")}
	go func() { must(server.ListenAndServe()) }()
	<-ending.Done()
	server.Shutdown(background)
	connection.Close()
	db.Close()
}

// poolSize is the number of connections to the database, and of messages that are handled at once.
func poolSize() int32 {
	if size, err := strconv.Atoi(os.Getenv("POOL")); err == nil {
		return int32(size)
	}
	return 20
}

func must(err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}
