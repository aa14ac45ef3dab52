/* Drives an NCCL net plugin as NCCL does, on host memory, between processes of one machine.
 *
 *   net_program inspect NAME...
 *       opens the first NAME that the loader finds, and says which interfaces it exports and what it calls itself
 *   net_program exchange PATH INTERFACE RANKS SECONDS BYTES[,BYTES...] ELEMENTS[,ELEMENTS...]
 *       a ring of RANKS processes: messages of BYTES with many requests in flight, every byte compared, then an
 *       all-reduce of ELEMENTS floats, every element compared. SECONDS without progress end it.
 *
 * The last line of the output is one JSON document {"answer": {...}}; the plugin's log goes to standard error.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <ifaddrs.h>
#include <link.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "net_interface.h"
#include "net_ring.h"

enum { NEWEST_PROBED = 20, MAX_RANKS = 16, TEXT = 4096, LOG_WARN = 2, LOG_INFO = 3 };

/* Plugins and libfabric leave loopback interfaces out, and a sandbox without network has no other: linked with
 * -rdynamic, this function takes the C library's place, and lo counts as any interface. */
int getifaddrs(struct ifaddrs **list)
{
    int (*find)(struct ifaddrs **);
    *(void **)&find = dlsym(RTLD_NEXT, "getifaddrs");
    int result = find(list);
    for (struct ifaddrs *one = result == 0 ? *list : NULL; one; one = one->ifa_next)
        one->ifa_flags &= ~(unsigned int)IFF_LOOPBACK;
    return result;
}

static void log_line(int level, unsigned long flags, const char *file, int line, const char *format, ...)
{
    (void)flags, (void)file, (void)line;
    if (level > LOG_INFO)
        return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "plugin %s: %s\n", level <= LOG_WARN ? "warns" : "says", text);
}

static int ignore_event(void **event, int type, void *parent, int64_t plugin, void *data)
{
    (void)event, (void)type, (void)parent, (void)plugin, (void)data;
    return 0;
}

/* Text as a JSON string; null for none. */
static void print_json(FILE *out, const char *text)
{
    if (!text) {
        fputs("null", out);
        return;
    }
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < 0x20 || *c > 0x7e)
            fprintf(out, "\\u%04x", *c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

static const struct net_table *find_table(void *library, int version)
{
    char symbol[32];
    snprintf(symbol, sizeof symbol, "ncclNetPlugin_v%d", version);
    return dlsym(library, symbol);
}

/* NCCL opens plugins with these flags (NVIDIA/nccl v2.30.7-1, src/os/linux.cc, ncclOsDlopen). */
static void *open_plugin(const char *name)
{
    return dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

static int inspect(int count, char **names)
{
    void *library = NULL;
    printf("{\"answer\": {\"errors\": [");
    for (int i = 0; i < count && !library; i++) {
        library = open_plugin(names[i]);
        if (!library) {
            printf("%s", i ? ", " : "");
            print_json(stdout, dlerror());
        }
    }
    printf("], \"path\": ");
    struct link_map *map = NULL;
    if (library)
        dlinfo(library, RTLD_DI_LINKMAP, &map);
    print_json(stdout, map ? map->l_name : NULL);
    printf(", \"names\": {");
    int found = 0;
    for (int version = 1; library && version <= NEWEST_PROBED; version++) {
        const struct net_table *table = find_table(library, version);
        if (table) {
            printf("%s\"%d\": ", found++ ? ", " : "", version);
            print_json(stdout, table->name);
        }
    }
    printf("}}}\n");
    return 0;
}

/* What ranks and their parent say to each other: a kind, a length, and that many bytes. */
struct message {
    char kind; /* Handle, Result, Error, Go */
    int length;
    char text[TEXT];
};

static int write_message(int channel, char kind, const void *text, int length)
{
    struct message message = {.kind = kind, .length = length};
    memcpy(message.text, text, (size_t)length);
    ssize_t size = (ssize_t)(offsetof(struct message, text) + (size_t)length);
    return send(channel, &message, (size_t)size, MSG_NOSIGNAL) == size ? 0 : -1;
}

/* Each message is one packet. Its kind, 0 where the other side is gone. */
static char read_message(int channel, struct message *message)
{
    ssize_t size;
    do
        size = recv(channel, message, sizeof *message, 0);
    while (size < 0 && errno == EINTR);
    if (size <= 0)
        message->kind = 0;
    return message->kind;
}

static struct rank self;
static int parent_channel;

_Noreturn void rank_failed(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write_message(parent_channel, 'E', text, (int)strlen(text));
    _exit(3);
}

/* Only what may be called in a signal's place: write and _exit. */
static void on_alarm(int signal)
{
    (void)signal;
    struct message message = {.kind = 'E'};
    const char *words[] = {"no progress in ", self.stage};
    for (int i = 0; i < 2; i++)
        for (const char *c = words[i]; *c && message.length < 255; c++)
            message.text[message.length++] = *c;
    ssize_t ignored = write(parent_channel, &message, offsetof(struct message, text) + (size_t)message.length);
    (void)ignored;
    _exit(3);
}

/* The clock stands still: a rank that waits for the others makes no progress, and is not at fault. */
static void wait_for_parent(char kind, struct message *message)
{
    alarm(0);
    if (read_message(parent_channel, message) != kind)
        _exit(3);
}

static void open_net(const char *path, int version)
{
    enter_stage(&self, "dlopen");
    void *library = open_plugin(path);
    if (!library)
        rank_failed("%s", dlerror());
    self.net.version = version;
    self.net.table = find_table(library, version);
    if (!self.net.table)
        rank_failed("%s does not export ncclNetPlugin_v%d", path, version);
    enter_stage(&self, "init");
    check(&self, net_init(&self.net, log_line, ignore_event), "init");
    enter_stage(&self, "devices");
    check(&self, net_devices(&self.net, &self.devices), "devices");
    if (self.devices < 1)
        rank_failed("devices: the plugin has none");
    enter_stage(&self, "getProperties");
    for (int device = self.devices - 1; device >= 0; device--)
        check(&self, net_properties(&self.net, device, &self.device), "getProperties");
}

/* The whole life of one rank. */
_Noreturn static void run_rank(int channel, char **arguments)
{
    struct message message;
    char handle[HANDLE_BYTES] = {0};
    parent_channel = channel;
    signal(SIGALRM, on_alarm);
    open_net(arguments[0], atoi(arguments[1]));
    enter_stage(&self, "listen");
    check(&self, net_listen(&self.net, 0, handle, &self.listening), "listen");
    write_message(channel, 'H', handle, HANDLE_BYTES);
    wait_for_parent('H', &message);
    connect_ring(&self, message.text);
    exchange_messages(&self, arguments[4]);
    reduce_arrays(&self, arguments[5]);
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    fprintf(out, "{\"devices\": %d, \"device\": ", self.devices);
    print_json(out, self.device.name);
    fprintf(out, ", \"name\": ");
    print_json(out, self.net.table->name);
    fprintf(out, ", \"messages\": %ld, \"bytes_compared\": %ld, \"elements_compared\": %ld, \"wrong\": %ld, "
            "\"bytes_per_second\": %.0f, \"examples\": [", self.messages, self.bytes, self.elements, self.wrong,
            self.rate);
    for (int i = 0; i < self.examples; i++) {
        fprintf(out, i ? ", " : "");
        print_json(out, self.example[i]);
    }
    fprintf(out, "]}");
    fclose(out);
    if (length >= TEXT)
        rank_failed("the result is too long");
    write_message(channel, 'R', text, (int)length);
    /* No rank takes its side of a connection away while another still sends. */
    wait_for_parent('G', &message);
    close_ring(&self);
    enter_stage(&self, "finalize");
    check(&self, net_finalize(&self.net), "finalize");
    write_message(channel, 'G', "", 0);
    _exit(0);
}

struct child {
    pid_t pid;
    int channel;
    struct message last;
};

/* Waits for one message of each child; the number of the first that fails or ends, or -1. */
static int collect(struct child *children, int ranks, char kind)
{
    struct pollfd events[MAX_RANKS] = {0};
    for (int rank = 0; rank < ranks; rank++)
        events[rank] = (struct pollfd){children[rank].channel, POLLIN, 0};
    for (int waiting = ranks; waiting;) {
        if (poll(events, (unsigned int)ranks, -1) < 0)
            continue;
        for (int rank = 0; rank < ranks; rank++) {
            if (!events[rank].revents)
                continue;
            if (read_message(children[rank].channel, &children[rank].last) != kind)
                return rank;
            events[rank].fd = -1;
            events[rank].revents = 0;
            waiting--;
        }
    }
    return -1;
}

static void describe_end(struct child *child, char *text, size_t size)
{
    int status = 0;
    if (child->last.kind == 'E') {
        snprintf(text, size, "%.*s", child->last.length, child->last.text);
        return;
    }
    waitpid(child->pid, &status, 0);
    child->pid = 0;
    if (WIFSIGNALED(status))
        snprintf(text, size, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(text, size, "ended with exit %d", WEXITSTATUS(status));
}

static int start_rank(struct child *child, struct child *before, int ranks, char **arguments)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0 || (child->pid = fork()) < 0)
        return -1;
    if (child->pid == 0) {
        for (int other = 0; other < self.number; other++)
            close(before[other].channel);
        close(pair[0]);
        self.ranks = ranks;
        self.patience = (unsigned int)atoi(arguments[3]);
        run_rank(pair[1], arguments);
    }
    close(pair[1]);
    child->channel = pair[0];
    return 0;
}

static int exchange(char **arguments)
{
    struct child children[MAX_RANKS] = {0};
    int ranks = atoi(arguments[2]);
    if (ranks < 2 || ranks > MAX_RANKS)
        return 2;
    for (self.number = 0; self.number < ranks; self.number++)
        if (start_rank(&children[self.number], children, ranks, arguments) != 0) {
            perror("net_program: a rank cannot be started");
            return 1;
        }
    int failed = collect(children, ranks, 'H');
    for (int rank = 0; failed < 0 && rank < ranks; rank++)
        write_message(children[rank].channel, 'H', children[(rank + 1) % ranks].last.text, HANDLE_BYTES);
    if (failed < 0)
        failed = collect(children, ranks, 'R');
    printf("{\"answer\": {\"ranks\": %d, \"findings\": [", ranks);
    for (int rank = 0; failed < 0 && rank < ranks; rank++) {
        printf("%s%.*s", rank ? ", " : "", children[rank].last.length, children[rank].last.text);
        children[rank].last.kind = 0;
    }
    for (int rank = 0; failed < 0 && rank < ranks; rank++)
        write_message(children[rank].channel, 'G', "", 0);
    if (failed < 0)
        failed = collect(children, ranks, 'G');
    char text[TEXT] = "";
    if (failed >= 0)
        describe_end(&children[failed], text, sizeof text);
    for (int rank = 0; rank < ranks; rank++)
        if (children[rank].pid) {
            if (failed >= 0)
                kill(children[rank].pid, SIGKILL);
            waitpid(children[rank].pid, NULL, 0);
        }
    printf("], \"failed_rank\": %d, \"failure\": ", failed);
    print_json(stdout, failed < 0 ? NULL : text);
    printf("}}\n");
    return 0;
}

int main(int count, char **words)
{
    if (count >= 3 && strcmp(words[1], "inspect") == 0)
        return inspect(count - 2, words + 2);
    if (count == 8 && strcmp(words[1], "exchange") == 0)
        return exchange(words + 2);
    fprintf(stderr, "usage: net_program inspect NAME... | exchange PATH INTERFACE RANKS SECONDS BYTES ELEMENTS\n");
    return 2;
}
