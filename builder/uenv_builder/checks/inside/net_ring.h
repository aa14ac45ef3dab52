/* One rank of a ring that sends to the next and receives from the one before, and what it has found. */
#ifndef UENV_NET_RING_H
#define UENV_NET_RING_H

#include "net_interface.h"

enum { EXAMPLES = 3, EXAMPLE_TEXT = 160 };

struct rank {
    int number, ranks, devices;
    unsigned int patience; /* seconds without progress */
    struct net net;
    struct device device;
    void *listening, *sending, *receiving;
    char stage[128];
    long messages, bytes, elements, wrong;
    double rate; /* bytes per second of the largest messages */
    int examples;
    char example[EXAMPLES][EXAMPLE_TEXT];
};

/* Tells the parent and ends this rank. */
_Noreturn void rank_failed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Names what is being done, for whoever reads why it did not end, and starts the clock anew. */
void enter_stage(struct rank *rank, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends this rank where the plugin's answer is not ncclSuccess. */
void check(struct rank *rank, int result, const char *call);

void connect_ring(struct rank *rank, char *handle_of_next);
void exchange_messages(struct rank *rank, const char *sizes);
void reduce_arrays(struct rank *rank, const char *sizes);
void close_ring(struct rank *rank);

#endif
