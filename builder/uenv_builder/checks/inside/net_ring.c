/* Messages and an all-reduce around a ring of ranks, over an NCCL net plugin; everything that arrives is compared. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "net_ring.h"

enum { IN_FLIGHT = 16, MESSAGES = 48, FEW_MESSAGES = 20, LARGE = 1 << 20, GUARD = 64, UNTOUCHED = 0xa5, TAG = 7 };
enum { PRIME = 251 }; /* sums over 16 ranks stay exact in a float; no chunk of a usual size repeats the pattern */

void enter_stage(struct rank *rank, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rank->stage, sizeof rank->stage, format, arguments);
    va_end(arguments);
    alarm(rank->patience);
}

void check(struct rank *rank, int result, const char *call)
{
    static const char *const names[] = {"ncclSuccess", "ncclUnhandledCudaError", "ncclSystemError",
                                        "ncclInternalError", "ncclInvalidArgument", "ncclInvalidUsage",
                                        "ncclRemoteError", "ncclInProgress"};
    if (result == 0)
        return;
    const char *name = result > 0 && result < 8 ? names[result] : "an unknown result";
    rank_failed("%s answered %s (%d), in the stage: %s", call, name, result, rank->stage);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void note_wrong(struct rank *rank, const char *format, ...)
{
    rank->wrong++;
    if (rank->examples == EXAMPLES)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rank->example[rank->examples++], EXAMPLE_TEXT, format, arguments);
    va_end(arguments);
}

static int number_before(const struct rank *rank)
{
    return (rank->number + rank->ranks - 1) % rank->ranks;
}

static void *allocate(size_t size)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 65536, size))
        rank_failed("no memory for %zu bytes", size);
    return memory;
}

void connect_ring(struct rank *rank, char *handle_of_next)
{
    enter_stage(rank, "connect and accept");
    while (!rank->sending || !rank->receiving) {
        if (!rank->sending)
            check(rank, net_connect(&rank->net, 0, handle_of_next, &rank->sending), "connect");
        if (!rank->receiving)
            check(rank, net_accept(&rank->net, rank->listening, &rank->receiving), "accept");
    }
}

/* The byte at `place` of a message: mixes sender, size, message and place (the finalizer of splitmix64). */
static void fill(unsigned char *memory, size_t size, uint64_t seed)
{
    for (size_t place = 0; place < size; place += 8) {
        uint64_t word = (seed + place) * 0x9e3779b97f4a7c15u;
        word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
        word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
        word ^= word >> 31;
        memcpy(memory + place, &word, size - place < 8 ? size - place : 8);
    }
}

static uint64_t seed_of(int sender, size_t size, int message)
{
    return ((uint64_t)sender << 56) ^ ((uint64_t)size << 24) ^ ((uint64_t)message << 40) ^ 0x5eed;
}

struct slot {
    void *request;
    int message;
};

struct traffic {
    struct rank *rank;
    size_t size, room; /* of a message, and of a slot in a buffer */
    int messages;
    unsigned char *outgoing, *incoming, *expected;
    void *send_registration, *receive_registration;
    struct slot sends[IN_FLIGHT], receives[IN_FLIGHT];
    int sent, received, send_next, receive_next;
};

static void compare(struct traffic *traffic, int slot, int reported)
{
    struct rank *rank = traffic->rank;
    const unsigned char *got = traffic->incoming + (size_t)slot * traffic->room;
    int message = traffic->receives[slot].message, sender = number_before(rank);
    if ((size_t)reported != traffic->size)
        note_wrong(rank, "message %d of %zu bytes from rank %d: %d bytes are reported", message, traffic->size, sender,
                   reported);
    fill(traffic->expected, traffic->size, seed_of(sender, traffic->size, message));
    memset(traffic->expected + traffic->size, UNTOUCHED, GUARD);
    rank->messages++;
    rank->bytes += (long)traffic->size;
    if (memcmp(got, traffic->expected, traffic->size + GUARD) == 0)
        return;
    size_t place = 0;
    while (got[place] == traffic->expected[place])
        place++;
    if (place < traffic->size)
        note_wrong(rank, "message %d of %zu bytes from rank %d: byte %zu is 0x%02x, sent was 0x%02x", message,
                   traffic->size, sender, place, got[place], traffic->expected[place]);
    else
        note_wrong(rank, "message %d of %zu bytes from rank %d: wrote behind its end", message, traffic->size, sender);
}

static void post_receive(struct traffic *traffic, int slot)
{
    unsigned char *memory = traffic->incoming + (size_t)slot * traffic->room;
    struct slot *receive = &traffic->receives[slot];
    memset(memory, UNTOUCHED, traffic->size + GUARD);
    check(traffic->rank, net_receive(&traffic->rank->net, traffic->rank->receiving, memory, traffic->size + GUARD, TAG,
                                     traffic->receive_registration, &receive->request), "irecv");
    if (receive->request)
        receive->message = traffic->receive_next++;
}

static void post_send(struct traffic *traffic, int slot)
{
    unsigned char *memory = traffic->outgoing + (size_t)slot * traffic->room;
    struct slot *send = &traffic->sends[slot];
    fill(memory, traffic->size, seed_of(traffic->rank->number, traffic->size, traffic->send_next));
    check(traffic->rank, net_send(&traffic->rank->net, traffic->rank->sending, memory, traffic->size, TAG,
                                  traffic->send_registration, &send->request), "isend");
    if (send->request)
        send->message = traffic->send_next++;
}

/* Whether the request has ended; `size` is then what the plugin reports. */
static int has_ended(struct rank *rank, void **request, int *size)
{
    int done = 0, sizes[8] = {0};
    check(rank, net_test(&rank->net, *request, &done, sizes), "test");
    if (!done)
        return 0;
    *request = NULL;
    *size = sizes[0];
    alarm(rank->patience);
    return 1;
}

static void exchange_size(struct traffic *traffic)
{
    struct rank *rank = traffic->rank;
    int size = 0;
    traffic->sent = traffic->received = traffic->send_next = traffic->receive_next = 0;
    while (traffic->sent < traffic->messages || traffic->received < traffic->messages)
        for (int slot = 0; slot < IN_FLIGHT; slot++) {
            struct slot *send = &traffic->sends[slot], *receive = &traffic->receives[slot];
            if (receive->request && has_ended(rank, &receive->request, &size)) {
                traffic->received++;
                compare(traffic, slot, size);
            } else if (!receive->request && traffic->receive_next < traffic->messages)
                post_receive(traffic, slot);
            if (send->request && has_ended(rank, &send->request, &size))
                traffic->sent++;
            else if (!send->request && traffic->send_next < traffic->messages)
                post_send(traffic, slot);
        }
}

static size_t largest(const char *numbers)
{
    size_t found = 0;
    for (const char *text = numbers; *text;) {
        char *end;
        size_t number = strtoul(text, &end, 10);
        found = number > found ? number : found;
        text = *end ? end + 1 : end;
    }
    return found;
}

void exchange_messages(struct rank *rank, const char *sizes)
{
    struct traffic traffic = {.rank = rank, .room = (largest(sizes) + GUARD + 4095) / 4096 * 4096};
    size_t whole = traffic.room * IN_FLIGHT;
    traffic.outgoing = allocate(whole);
    traffic.incoming = allocate(whole);
    traffic.expected = allocate(traffic.room);
    enter_stage(rank, "regMr");
    check(rank, net_register(&rank->net, rank->sending, traffic.outgoing, whole, &traffic.send_registration), "regMr");
    check(rank, net_register(&rank->net, rank->receiving, traffic.incoming, whole, &traffic.receive_registration),
          "regMr");
    for (const char *text = sizes; *text;) {
        char *end;
        traffic.size = strtoul(text, &end, 10);
        text = *end ? end + 1 : end;
        traffic.messages = traffic.size < LARGE ? MESSAGES : FEW_MESSAGES;
        enter_stage(rank, "the exchange of messages of %zu bytes", traffic.size);
        double start = now();
        exchange_size(&traffic);
        rank->rate = (double)traffic.size * traffic.messages / (now() - start);
    }
    enter_stage(rank, "deregMr");
    check(rank, net_deregister(&rank->net, rank->sending, traffic.send_registration), "deregMr");
    check(rank, net_deregister(&rank->net, rank->receiving, traffic.receive_registration), "deregMr");
    free(traffic.outgoing);
    free(traffic.incoming);
    free(traffic.expected);
}

/* An integer below PRIME, different for neighbours, ranks and blocks of elements. */
static float contribution(int rank, size_t index)
{
    return (float)((index * (size_t)(rank + 1) + 5 * (size_t)rank + index / PRIME * 2) % PRIME);
}

struct chunk {
    size_t first, count;
};

static struct chunk chunk_of(size_t elements, int ranks, int number)
{
    size_t share = (elements + (size_t)ranks - 1) / (size_t)ranks;
    size_t first = share * (size_t)number < elements ? share * (size_t)number : elements;
    size_t rest = elements - first;
    return (struct chunk){first, rest < share ? rest : share};
}

/* Sends one chunk to the next rank and takes one from the rank before; an empty one is not sent at all. */
static void pass(struct rank *rank, float *out, size_t out_count, void *out_registration, float *in, size_t in_count,
                 void *in_registration)
{
    void *send = NULL, *receive = NULL;
    int sending = out_count > 0, receiving = in_count > 0, size = 0;
    while (sending || receiving) {
        if (receiving && !receive)
            check(rank, net_receive(&rank->net, rank->receiving, in, in_count * sizeof *in, TAG, in_registration,
                                    &receive), "irecv");
        else if (receiving && has_ended(rank, &receive, &size))
            receiving = 0;
        if (sending && !send)
            check(rank, net_send(&rank->net, rank->sending, out, out_count * sizeof *out, TAG, out_registration,
                                 &send), "isend");
        else if (sending && has_ended(rank, &send, &size))
            sending = 0;
    }
}

/* Reduce-scatter, then all-gather: `data` holds the sums in the end. */
static void reduce(struct rank *rank, float *data, float *scratch, size_t elements, void *data_to_send,
                   void *data_to_receive, void *scratch_to_receive)
{
    int ranks = rank->ranks;
    for (int step = 0; step < ranks - 1; step++) {
        struct chunk out = chunk_of(elements, ranks, (rank->number - step + ranks) % ranks);
        struct chunk in = chunk_of(elements, ranks, (rank->number - step - 1 + 2 * ranks) % ranks);
        pass(rank, data + out.first, out.count, data_to_send, scratch, in.count, scratch_to_receive);
        for (size_t index = 0; index < in.count; index++)
            data[in.first + index] += scratch[index];
    }
    for (int step = 0; step < ranks - 1; step++) {
        struct chunk out = chunk_of(elements, ranks, (rank->number + 1 - step + ranks) % ranks);
        struct chunk in = chunk_of(elements, ranks, (rank->number - step + ranks) % ranks);
        pass(rank, data + out.first, out.count, data_to_send, data + in.first, in.count, data_to_receive);
    }
}

static void compare_sums(struct rank *rank, const float *data, size_t elements)
{
    for (size_t index = 0; index < elements; index++) {
        float exact = 0;
        for (int other = 0; other < rank->ranks; other++)
            exact += contribution(other, index);
        if (!(data[index] == exact))
            note_wrong(rank, "all-reduce of %zu elements: rank %d has %g at %zu, exact is %g", elements, rank->number,
                       (double)data[index], index, (double)exact);
    }
    rank->elements += (long)elements;
}

void reduce_arrays(struct rank *rank, const char *sizes)
{
    size_t bytes = (largest(sizes) + 1) * sizeof(float);
    float *data = allocate(bytes), *scratch = allocate(bytes);
    void *data_to_send = NULL, *data_to_receive = NULL, *scratch_to_receive = NULL;
    enter_stage(rank, "regMr");
    check(rank, net_register(&rank->net, rank->sending, data, bytes, &data_to_send), "regMr");
    check(rank, net_register(&rank->net, rank->receiving, data, bytes, &data_to_receive), "regMr");
    check(rank, net_register(&rank->net, rank->receiving, scratch, bytes, &scratch_to_receive), "regMr");
    for (const char *text = sizes; *text;) {
        char *end;
        size_t elements = strtoul(text, &end, 10);
        text = *end ? end + 1 : end;
        enter_stage(rank, "the all-reduce of %zu elements", elements);
        for (size_t index = 0; index < elements; index++)
            data[index] = contribution(rank->number, index);
        reduce(rank, data, scratch, elements, data_to_send, data_to_receive, scratch_to_receive);
        compare_sums(rank, data, elements);
    }
    enter_stage(rank, "deregMr");
    check(rank, net_deregister(&rank->net, rank->sending, data_to_send), "deregMr");
    check(rank, net_deregister(&rank->net, rank->receiving, data_to_receive), "deregMr");
    check(rank, net_deregister(&rank->net, rank->receiving, scratch_to_receive), "deregMr");
    free(data);
    free(scratch);
}

void close_ring(struct rank *rank)
{
    enter_stage(rank, "close");
    check(rank, net_close(&rank->net, CLOSE_SEND, rank->sending), "closeSend");
    check(rank, net_close(&rank->net, CLOSE_RECEIVE, rank->receiving), "closeRecv");
    check(rank, net_close(&rank->net, CLOSE_LISTEN, rank->listening), "closeListen");
}
