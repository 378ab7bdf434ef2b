// C functions of the operators in products.py, as AOTInductor calls them.

template <class T>
static AOTITorchError isocline_sum_of_products(const AtenTensorHandle* a, bool a_turned,
                                               const AtenTensorHandle* b, bool b_turned,
                                               std::int64_t count, std::int32_t dtype,
                                               AtenTensorHandle* out) {
    std::int64_t rows, inner, columns;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_size(*a, a_turned, &rows));
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_size(*a, !a_turned, &inner));
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_size(*b, !b_turned, &columns));
    const std::int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
        2, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, out));
    void *left, *right, *to;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(*out, &to));
    for (std::int64_t i = 0; i < count; i++) {
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(a[i], &left));
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(b[i], &right));
        isocline::product((const T*)left, a_turned, (const T*)right, b_turned, (T*)to, rows,
                          columns, inner, i > 0);
    }
    return AOTI_TORCH_SUCCESS;
}

static AOTITorchError isocline_dispatch(const AtenTensorHandle* a, bool a_turned,
                                        const AtenTensorHandle* b, bool b_turned,
                                        std::int64_t count, AtenTensorHandle* out) {
    std::int32_t dtype;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(*a, &dtype));
    if (dtype == aoti_torch_dtype_float32())
        return isocline_sum_of_products<float>(a, a_turned, b, b_turned, count, dtype, out);
    return isocline_sum_of_products<double>(a, a_turned, b, b_turned, count, dtype, out);
}

static AOTITorchError isocline_floats(AtenTensorHandle tensor, std::int64_t first,
                                      const float** found) {
    void* data;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor, &data));
    *found = (const float*)data + first;
    return AOTI_TORCH_SUCCESS;
}

static AOTITorchError isocline_layers(AtenTensorHandle x, const AtenTensorHandle* parts,
                                      const std::int64_t* form, std::int64_t length,
                                      AtenTensorHandle* out) {
    const std::int64_t *end = form + length, rows = *form++, inner = *form++;
    const float* from;
    AOTI_TORCH_ERROR_CODE_CHECK(isocline_floats(x, *form++, &from));
    isocline::Layer all[isocline::kDeepest];
    std::int64_t count = 0, size = 0;
    while (form < end) {
        isocline::Layer& layer = all[count++];
        layer.columns = *form++;
        const std::int64_t kind = *form++;
        layer.turned = kind & 1, layer.kept = kind & 4, layer.follows = kind >> 3;
        layer.bias = layer.result = nullptr;
        AOTI_TORCH_ERROR_CODE_CHECK(isocline_floats(*parts++, *form++, &layer.weight));
        if (kind & 2) AOTI_TORCH_ERROR_CODE_CHECK(isocline_floats(*parts++, *form++, &layer.bias));
        if (layer.follows >= isocline::kTanhBackward)
            AOTI_TORCH_ERROR_CODE_CHECK(isocline_floats(*parts++, *form++, &layer.result));
        if (layer.kept) size += rows * layer.columns;
    }
    const std::int64_t stride = 1;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &stride,
                                                         aoti_torch_dtype_float32(),
                                                         aoti_torch_device_type_cpu(), 0, out));
    void* to;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(*out, &to));
    isocline::layers(from, all, count, (float*)to, rows, inner);
    return AOTI_TORCH_SUCCESS;
}
