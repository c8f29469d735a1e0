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

/* A description has these words; then follow the sizes and strides, at most 64 of each. */
enum word { CLASS, DTYPE, DEVICE, INDEX, DIMENSIONS, BYTES, ADDRESS, WORDS };
enum { STRIDED = 0, MOST_WORDS = WORDS + 2 * 64 };

/* Describe a tensor, and return the number of words; 0 if it is not of this class, or not dense. */
static int64_t describe(const char *object, int64_t class, int64_t *words) {
    void *tensor = (void *)(object + torch.tensor_at), *address;
    int32_t layout, dtype, device, index;
    int64_t *sizes, *strides;
    words[CLASS] = *(const intptr_t *)(object + torch.class_at);
    if (words[CLASS] != class || torch.layout(tensor, &layout) || layout != STRIDED ||
        torch.dtype(tensor, &dtype) || torch.device_type(tensor, &device) ||
        torch.device_index(tensor, &index) || torch.dimensions(tensor, &words[DIMENSIONS]) ||
        words[DIMENSIONS] > (MOST_WORDS - WORDS) / 2 || torch.sizes(tensor, &sizes) ||
        torch.strides(tensor, &strides) || torch.storage_size(tensor, &words[BYTES]) ||
        torch.data_ptr(tensor, &address))
        return 0;
    words[DTYPE] = dtype;
    words[DEVICE] = device;
    words[INDEX] = index;
    words[ADDRESS] = (intptr_t)address;
    int64_t count = WORDS;
    for (int64_t i = 0; i < words[DIMENSIONS]; i++) {
        words[count++] = sizes[i];
        words[count++] = strides[i];
    }
    return count;
}

/* Describe the tensors of a list, and return whether all could be described. */
EXPORT int64_t zeromean_describe(void *list, int64_t count, int64_t *known) {
    for (int64_t i = 0; i < count; i++) {
        const char *object = torch.item(list, i);
        const int64_t length = describe(object, *(const intptr_t *)(object + torch.class_at), known);
        if (length == 0) return 0;
        known += length;
    }
    return 1;
}

/* Return whether the tensors of a list are as described. Addresses are only compared if they are
   fixed; they are returned too. */
EXPORT int64_t zeromean_agree(void *list, int64_t count, const int64_t *known, int64_t fixed,
                              int64_t *addresses) {
    int64_t words[MOST_WORDS];
    for (int64_t i = 0; i < count; i++) {
        const int64_t length = describe(torch.item(list, i), known[CLASS], words);
        if (length == 0) return 0;
        addresses[i] = words[ADDRESS];
        if (!fixed) words[ADDRESS] = known[ADDRESS];
        if (memcmp(words, known, (size_t)length * sizeof *words) != 0) return 0;
        known += length;
    }
    return 1;
}
