/* Compares tensors with what they were when their addresses were collected, by torch's stable C
   functions. The caller passes those, and holds Python's lock during a call. */

struct torch {
    void *(*item)(void *list, intptr_t index); /* PyList_GetItem */
    int32_t (*layout)(void *tensor, int32_t *found);
    int32_t (*dtype)(void *tensor, int32_t *found);
    int32_t (*device_type)(void *tensor, int32_t *found);
    int32_t (*device_index)(void *tensor, int32_t *found);
    int32_t (*dimensions)(void *tensor, int64_t *found);
    int32_t (*sizes)(void *tensor, int64_t **found);
    int32_t (*strides)(void *tensor, int64_t **found);
    int32_t (*storage_size)(void *tensor, int64_t *found);
    int32_t (*data_ptr)(void *tensor, void **found);
    int64_t class_at, tensor_at; /* where a Python object has its class and its tensor */
};
static struct torch torch;

/* Set the functions of torch and the places in its Python objects. */
EXPORT void zeromean_use_torch(const struct torch *found) { torch = *found; }

enum { STRIDED = 0 };

/* What is compared of a dense tensor, apart from its device. */
struct form {
    int32_t dtype;
    int64_t dimensions, bytes, *sizes, *strides;
    void *address;
};

/* A description has these words; then follow the sizes and strides. */
enum word { CLASS, TENSOR, DEVICE, DTYPE, DIMENSIONS, BYTES, ADDRESS, WORDS };

static int64_t class_of(const char *object) { return *(const intptr_t *)(object + torch.class_at); }

static void *tensor_of(const char *object) { return (void *)(object + torch.tensor_at); }

/* Return the device of a dense tensor as one number; -1 if it is not dense. */
static int64_t device_of(void *tensor) {
    int32_t layout, type, index;
    if (torch.layout(tensor, &layout) || layout != STRIDED || torch.device_type(tensor, &type) ||
        torch.device_index(tensor, &index))
        return -1;
    return (int64_t)type << 32 | (uint32_t)index;
}

/* Return whether the form of a dense tensor could be read. */
INLINE int read(void *tensor, struct form *x) {
    return !torch.dtype(tensor, &x->dtype) && !torch.dimensions(tensor, &x->dimensions) &&
           (x->dimensions == 0 ||
            (!torch.sizes(tensor, &x->sizes) && !torch.strides(tensor, &x->strides))) &&
           !torch.storage_size(tensor, &x->bytes) && !torch.data_ptr(tensor, &x->address);
}

/* Describe the tensors of a list, and return whether all could be described. */
EXPORT int64_t zeromean_describe(void *list, int64_t count, int64_t *known) {
    for (int64_t i = 0; i < count; i++) {
        const char *object = torch.item(list, i);
        void *tensor = tensor_of(object);
        struct form x;
        known[CLASS] = class_of(object);
        known[TENSOR] = *(const intptr_t *)tensor;
        known[DEVICE] = device_of(tensor);
        if (known[DEVICE] < 0 || !read(tensor, &x)) return 0;
        known[DTYPE] = x.dtype;
        known[DIMENSIONS] = x.dimensions;
        known[BYTES] = x.bytes;
        known[ADDRESS] = (intptr_t)x.address;
        known += WORDS;
        for (int64_t d = 0; d < x.dimensions; d++) {
            *known++ = x.sizes[d];
            *known++ = x.strides[d];
        }
    }
    return 1;
}

/* Return whether the tensors of a list are as described, and their addresses. If these are fixed,
   the caller has kept the tensors alive: they must be the same, so they are still dense, and at the
   same addresses, so on the same devices. */
EXPORT int64_t zeromean_agree(void *list, int64_t count, const int64_t *known, int64_t fixed,
                              int64_t *addresses) {
    for (int64_t i = 0; i < count; i++) {
        const char *object = torch.item(list, i);
        void *tensor = tensor_of(object);
        struct form x;
        if (class_of(object) != known[CLASS] ||
            (fixed ? *(const intptr_t *)tensor != known[TENSOR]
                   : device_of(tensor) != known[DEVICE]) ||
            !read(tensor, &x) || x.dtype != known[DTYPE] || x.dimensions != known[DIMENSIONS] ||
            x.bytes != known[BYTES] || (fixed && (intptr_t)x.address != known[ADDRESS]))
            return 0;
        addresses[i] = (intptr_t)x.address;
        known += WORDS;
        for (int64_t d = 0; d < x.dimensions; d++)
            if (*known++ != x.sizes[d] || *known++ != x.strides[d]) return 0;
    }
    return 1;
}
