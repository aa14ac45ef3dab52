/* NCCL's net-plugin interface, versions 8 to 12, called in one way.
 *
 * The members, their order and their arguments are those of NVIDIA/nccl v2.30.7-1, src/include/plugin/net/net_v8.h to
 * net_v12.h. In all five versions a function stands at the same place of the table; what differs are its arguments.
 */
#ifndef UENV_NET_INTERFACE_H
#define UENV_NET_INTERFACE_H

#include <stddef.h>
#include <stdint.h>

enum { OLDEST_INTERFACE = 8, NEWEST_INTERFACE = 12, HANDLE_BYTES = 128, POINTER_HOST = 1 };

typedef void (*log_function)(int level, unsigned long flags, const char *file, int line, const char *format, ...);
typedef int (*profile_function)(void **event, int type, void *parent, int64_t plugin, void *data);
typedef void (*any_function)(void);

enum place {
    INIT, DEVICES, PROPERTIES, LISTEN, CONNECT, ACCEPT, REGISTER, REGISTER_DMABUF, DEREGISTER, SEND, RECEIVE, FLUSH,
    TEST, CLOSE_SEND, CLOSE_RECEIVE, CLOSE_LISTEN, DEVICE_REGISTRATION, RECEIVE_CONSUMED, MAKE_DEVICE, FINALIZE
};

struct net_table {
    const char *name;
    any_function calls[FINALIZE + 1];
};

/* What `getProperties` fills in; version 8 has no `force_flush`. `more` is room for what newer versions add. */
struct properties_8 {
    char *name, *pci_path;
    uint64_t guid;
    int pointers, global_registration, speed, port;
    float latency;
    int max_comms, max_receives, more[128];
};
struct properties_9 {
    char *name, *pci_path;
    uint64_t guid;
    int pointers, global_registration, force_flush, speed, port;
    float latency;
    int max_comms, max_receives, more[128];
};

struct net {
    int version;
    const struct net_table *table;
    void *context;
    int config; /* the one member of NCCL's communicator configuration: the traffic class, -1 is undefined */
};

struct device {
    const char *name;
    int pointers, speed, max_comms, max_receives;
};

#define CALL(net, place, ...) ((int (*)(__VA_ARGS__))(net)->table->calls[place])

static inline int net_init(struct net *net, log_function log, profile_function profile)
{
    net->config = -1;
    if (net->version >= 11)
        return CALL(net, INIT, void **, uint64_t, int *, log_function, profile_function)(
            &net->context, 1, &net->config, log, profile);
    if (net->version == 10)
        return CALL(net, INIT, log_function, profile_function)(log, profile);
    return CALL(net, INIT, log_function)(log);
}

static inline int net_devices(struct net *net, int *count)
{
    return CALL(net, DEVICES, int *)(count);
}

static inline int net_properties(struct net *net, int number, struct device *device)
{
    struct properties_8 old = {0};
    struct properties_9 new = {0};
    int result;
    if (net->version == 8) {
        result = CALL(net, PROPERTIES, int, struct properties_8 *)(number, &old);
        *device = (struct device){old.name, old.pointers, old.speed, old.max_comms, old.max_receives};
    } else {
        result = CALL(net, PROPERTIES, int, struct properties_9 *)(number, &new);
        *device = (struct device){new.name, new.pointers, new.speed, new.max_comms, new.max_receives};
    }
    return result;
}

static inline int net_listen(struct net *net, int device, void *handle, void **comm)
{
    if (net->version >= 11)
        return CALL(net, LISTEN, void *, int, void *, void **)(net->context, device, handle, comm);
    return CALL(net, LISTEN, int, void *, void **)(device, handle, comm);
}

static inline int net_connect(struct net *net, int device, void *handle, void **comm)
{
    void *offload = NULL;
    if (net->version >= 11)
        return CALL(net, CONNECT, void *, int, void *, void **, void **)(
            net->context, device, handle, comm, &offload);
    if (net->version == 10)
        return CALL(net, CONNECT, int, int *, void *, void **, void **)(
            device, &net->config, handle, comm, &offload);
    return CALL(net, CONNECT, int, void *, void **, void **)(device, handle, comm, &offload);
}

static inline int net_accept(struct net *net, void *listening, void **comm)
{
    void *offload = NULL;
    return CALL(net, ACCEPT, void *, void **, void **)(listening, comm, &offload);
}

static inline int net_register(struct net *net, void *comm, void *memory, size_t size, void **registration)
{
    return CALL(net, REGISTER, void *, void *, size_t, int, void **)(comm, memory, size, POINTER_HOST, registration);
}

static inline int net_deregister(struct net *net, void *comm, void *registration)
{
    return CALL(net, DEREGISTER, void *, void *)(comm, registration);
}

static inline int net_send(struct net *net, void *comm, void *memory, size_t size, int tag, void *registration,
                           void **request)
{
    if (net->version >= 10)
        return CALL(net, SEND, void *, void *, size_t, int, void *, void *, void **)(
            comm, memory, size, tag, registration, NULL, request);
    if (net->version == 9)
        return CALL(net, SEND, void *, void *, size_t, int, void *, void **)(
            comm, memory, size, tag, registration, request);
    return CALL(net, SEND, void *, void *, int, int, void *, void **)(
        comm, memory, (int)size, tag, registration, request);
}

static inline int net_receive(struct net *net, void *comm, void *memory, size_t size, int tag, void *registration,
                              void **request)
{
    int small = (int)size;
    void *no_handle = NULL;
    if (net->version >= 10)
        return CALL(net, RECEIVE, void *, int, void **, size_t *, int *, void **, void **, void **)(
            comm, 1, &memory, &size, &tag, &registration, &no_handle, request);
    if (net->version == 9)
        return CALL(net, RECEIVE, void *, int, void **, size_t *, int *, void **, void **)(
            comm, 1, &memory, &size, &tag, &registration, request);
    return CALL(net, RECEIVE, void *, int, void **, int *, int *, void **, void **)(
        comm, 1, &memory, &small, &tag, &registration, request);
}

/* `sizes` has room for what the plugin may report of grouped receives. */
static inline int net_test(struct net *net, void *request, int *done, int *sizes)
{
    return CALL(net, TEST, void *, int *, int *)(request, done, sizes);
}

static inline int net_close(struct net *net, enum place place, void *comm)
{
    return CALL(net, place, void *)(comm);
}

static inline int net_finalize(struct net *net)
{
    return net->version >= 11 ? CALL(net, FINALIZE, void *)(net->context) : 0;
}

#endif
