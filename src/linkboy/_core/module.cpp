// The extension module linkboy._core: what is too slow in NumPy and simple enough to be exact in C++.
#include "encoder.hpp"
#include "losses.hpp"
#include "ngrams.hpp"
#include "rows.hpp"

namespace {

using namespace linkboy;

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef encoder_methods[] = {
    {"flat", as_method(encoder_flat), METH_FASTCALL, "flat(texts, first, last, room, spans, wide)"},
    {"padded", as_method(encoder_padded), METH_FASTCALL,
     "padded(texts, first, last, room, pad, width, multiple, left, take)"},
    {"again", as_method(encoder_again), METH_FASTCALL, "again(text, asked, plan)"},
    {"lists", as_method(encoder_lists), METH_FASTCALL, "lists(texts, first, last, room)"},
    {"fill", encoder_fill, METH_VARARGS, "fill(page, kinds, lengths, folded, classes)"},
    {"fill_flags", encoder_fill_flags, METH_VARARGS, "fill_flags(page, flags)"},
    {"with_literals", encoder_with_literals, METH_VARARGS, "with_literals(texts, ids)"},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot encoder_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(encoder_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(free_holder<Encoder>)},
    {Py_tp_methods, encoder_methods},
    {Py_tp_doc, const_cast<char*>("Encoder(vocabulary, limit, unknown)\n--\n\nCuts texts into the pieces of a vocabulary.")},
    {0, nullptr},
};

PyType_Spec encoder_spec = {"linkboy._core.Encoder", sizeof(Holder<Encoder>), 0, Py_TPFLAGS_DEFAULT, encoder_slots};

PyMethodDef grams_methods[] = {
    {"encode", grams_encode, METH_VARARGS, "encode(texts, logs)"},
    {"fill_flags", grams_fill_flags, METH_VARARGS, "fill_flags(page, flags)"},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot grams_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(grams_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(free_holder<Grams>)},
    {Py_tp_methods, grams_methods},
    {Py_tp_doc, const_cast<char*>("Grams(hashes, idf, longest, words, binary, border)\n--\n\nFinds and weighs n-grams.")},
    {0, nullptr},
};

PyType_Spec grams_spec = {"linkboy._core.Grams", sizeof(Holder<Grams>), 0, Py_TPFLAGS_DEFAULT, grams_slots};

PyMethodDef rows_methods[] = {
    {"text", rows_text, METH_VARARGS, "text(buffer, size, at_end)"},
    {"records", rows_records, METH_VARARGS, "records(chunk, at_end)"},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot rows_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(rows_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(free_holder<Rows>)},
    {Py_tp_methods, rows_methods},
    {Py_tp_doc, const_cast<char*>("Rows(words, dim, separator, wide, line)\n--\n\nReads the vectors of wanted words.")},
    {0, nullptr},
};

PyType_Spec rows_spec = {"linkboy._core.Rows", sizeof(Holder<Rows>), 0, Py_TPFLAGS_DEFAULT, rows_slots};

PyMethodDef functions[] = {
    {"label_sum", as_method(label_sum), METH_FASTCALL,
     "label_sum(wide, logits, target, weight, class_weight, shift, gradient, samples, classes, positions, gamma, divisor)"},
    {"share_sum", as_method(share_sum), METH_FASTCALL,
     "share_sum(wide, logits, share, target, weight, class_weight, gradient, samples, classes, positions, smoothing, gamma, divisor)"},
    {"element_sum", as_method(element_sum), METH_FASTCALL,
     "element_sum(wide, logits, label, kept, weight, gradient, size, positive, negative, gamma)"},
    {"error_sum", as_method(error_sum), METH_FASTCALL,
     "error_sum(wide, input, target, weight, gradient, size, shape, first, second, mean, root)"},
    {"weight_sum", as_method(weight_sum), METH_FASTCALL, "weight_sum(target, weight, class_weight, size)"},
    {"bounds", as_method(bounds), METH_FASTCALL, "bounds(kind, numbers, size)"},
    {"logarithms", as_method(logarithms), METH_FASTCALL, "logarithms(kind, numbers, size, factor, wide, out)"},
    {"are_0_or_1", as_method(are_0_or_1), METH_FASTCALL, "are_0_or_1(kind, numbers, size)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "linkboy._core", "The compiled core.", -1, functions,
                          nullptr, nullptr, nullptr, nullptr};

// Raised with every change of what a function or a class takes or gives, here and in linkboy/_compiled.py.
constexpr long INTERFACE = 4;

bool add_type(PyObject* module, const char* name, PyType_Spec* spec) {
  Reference type(PyType_FromSpec(spec));
  return type && PyModule_AddObjectRef(module, name, type.object) == 0;
}

}  // namespace

PyMODINIT_FUNC PyInit__core() {
  Reference module(PyModule_Create(&definition));
  if (!module || !add_type(module.object, "Encoder", &encoder_spec) ||
      !add_type(module.object, "Grams", &grams_spec) || !add_type(module.object, "Rows", &rows_spec) ||
      PyModule_AddIntConstant(module.object, "INTERFACE", INTERFACE) != 0)
    return nullptr;
  return module.release();
}
