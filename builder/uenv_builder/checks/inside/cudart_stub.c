/* A CUDA runtime without a GPU: all memory is the host's.
 *
 * The NCCL plugin for libfabric opens libcudart.so and asks it for the driver's functions (aws/aws-ofi-nccl v1.20.0,
 * src/nccl_ofi_cuda.cpp: cudaRuntimeGetVersion, cudaGetDriverEntryPoint, cudaGetDriverEntryPointByVersion). This library
 * answers in CUDA's stead, so that plugin and libfabric run on host memory on any machine. It is never part of an
 * image. Values are those of the CUDA driver API's public documentation.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#ifndef UENV_CUDA_VERSION
#define UENV_CUDA_VERSION 13000 /* major * 1000 + minor * 10 */
#endif

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_SUPPORTED = 801 };
enum { POINTER_MEMORY_TYPE = 2, MEMORY_TYPE_HOST = 1, NO_DEVICE = -1 };

typedef unsigned long long device_pointer;

static int get_version(int *version)
{
    *version = UENV_CUDA_VERSION;
    return SUCCESS;
}

static int get_device(int *device)
{
    *device = 0;
    return SUCCESS;
}

/* Every attribute is 0: no GPUDirect, no DMA-BUF. */
static int get_attribute(int *value, int attribute, int device)
{
    (void)attribute, (void)device;
    *value = 0;
    return SUCCESS;
}

static int get_pointer_attributes(unsigned int count, const int *attributes, void **values, device_pointer pointer)
{
    (void)pointer;
    for (unsigned int i = 0; i < count; i++)
        if (values[i])
            *(int *)values[i] = attributes[i] == POINTER_MEMORY_TYPE ? MEMORY_TYPE_HOST : NO_DEVICE;
    return SUCCESS;
}

static int allocate(device_pointer *pointer, size_t size)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 65536, size))
        return OUT_OF_MEMORY;
    *pointer = (device_pointer)memory;
    return SUCCESS;
}

static int release(device_pointer pointer)
{
    free((void *)pointer);
    return SUCCESS;
}

static int copy(device_pointer to, device_pointer from, size_t size)
{
    memcpy((void *)to, (const void *)from, size);
    return SUCCESS;
}

static int set_bytes(device_pointer to, unsigned char value, size_t size)
{
    memset((void *)to, value, size);
    return SUCCESS;
}

static int register_host(void *memory, size_t size, unsigned int flags)
{
    (void)memory, (void)size, (void)flags;
    return SUCCESS;
}

static int unregister_host(void *memory)
{
    (void)memory;
    return SUCCESS;
}

static int get_device_pointer(device_pointer *pointer, void *memory, unsigned int flags)
{
    (void)flags;
    *pointer = (device_pointer)memory;
    return SUCCESS;
}

/* For every function that host memory has no use for. */
static int refuse(void)
{
    return NOT_SUPPORTED;
}

typedef void (*any_function)(void);

static const struct {
    const char *name;
    any_function function;
} functions[] = {
    {"cuDriverGetVersion", (any_function)get_version},
    {"cuCtxGetDevice", (any_function)get_device},
    {"cuDeviceGetAttribute", (any_function)get_attribute},
    {"cuPointerGetAttributes", (any_function)get_pointer_attributes},
    {"cuMemAlloc", (any_function)allocate},
    {"cuMemFree", (any_function)release},
    {"cuMemcpy", (any_function)copy},
    {"cuMemsetD8", (any_function)set_bytes},
    {"cuMemHostRegister", (any_function)register_host},
    {"cuMemHostUnregister", (any_function)unregister_host},
    {"cuMemHostGetDevicePointer", (any_function)get_device_pointer},
};

int cudaRuntimeGetVersion(int *version)
{
    return get_version(version);
}

int cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int version,
                                     unsigned long long flags, int *status)
{
    (void)version, (void)flags;
    if (!symbol || !function)
        return INVALID_VALUE;
    any_function found = (any_function)refuse;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strcmp(functions[i].name, symbol) == 0)
            found = functions[i].function;
    *function = (void *)found;
    if (status)
        *status = SUCCESS;
    return SUCCESS;
}

int cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags, int *status)
{
    return cudaGetDriverEntryPointByVersion(symbol, function, UENV_CUDA_VERSION, flags, status);
}
